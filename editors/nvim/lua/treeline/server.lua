-- The language server: where it is, how it is started, and what happens when it ends.
local config = require("treeline.config")
local rpc = require("treeline.rpc")
local status = require("treeline.status")

local M = {}

local MOST_STARTS, WITHIN_SECONDS = 3, 60
local PROGRAM = "treeline-lsp"
local MOST_LINES, MOST_BYTES = 100000, 5000000 -- of a file that the server hears of
local SIGTERM = 15 -- how Neovim ends a server that somebody wants ended

---@type number[] when it has ended unexpectedly, in seconds
local deaths = {}

--- Find the server: what setup() says, the PATH, where tools of a user are installed, or the clone this file is in.
---@return string[]? cmd
---@return string where
function M.find()
  if config.options.cmd then
    return config.options.cmd, "setup()"
  end
  if vim.fn.executable(PROGRAM) == 1 then
    return { vim.fn.exepath(PROGRAM) }, "PATH"
  end
  local here = vim.fn.fnamemodify(debug.getinfo(1, "S").source:sub(2), ":p:h")
  for _, place in ipairs({
    { "the user's tools", vim.fn.expand("~/.local/bin") },
    { "the clone", vim.fs.normalize(here .. "/../../../../.venv/bin") },
  }) do
    local where, folder = unpack(place)
    if vim.fn.executable(folder .. "/" .. PROGRAM) == 1 then
      return { folder .. "/" .. PROGRAM }, where
    end
  end
  return nil, ("%s is not on the PATH: install it, or name it as `cmd` in setup()"):format(PROGRAM)
end

---@return table
local function capabilities()
  local all = vim.lsp.protocol.make_client_capabilities()
  all.textDocument.inlineCompletion = all.textDocument.inlineCompletion or { dynamicRegistration = false }
  return all
end

---@return table
local function settings()
  local given = config.options.settings
  return next(given) and given or vim.empty_dict()
end

--- What `vim.lsp.enable("treeline")` needs to know.
---@return vim.lsp.Config
function M.native_config()
  return {
    cmd = M.find() or { PROGRAM },
    root_markers = config.options.root_markers,
    filetypes = config.options.filetypes,
    init_options = settings(),
    settings = { treeline = settings() },
    capabilities = capabilities(),
    handlers = { ["treeline/status"] = status.received },
  }
end

--- Whether suggestions are wanted in a buffer.
---@param buf integer
---@return boolean
local function wanted(buf)
  local only = config.options.filetypes
  return vim.api.nvim_buf_is_loaded(buf)
    and vim.bo[buf].buftype == ""
    and vim.bo[buf].modifiable
    and vim.api.nvim_buf_get_name(buf) ~= "" -- the protocol names documents
    and vim.api.nvim_buf_line_count(buf) <= MOST_LINES
    and vim.api.nvim_buf_get_offset(buf, vim.api.nvim_buf_line_count(buf)) <= MOST_BYTES
    and (not only or vim.tbl_contains(only, vim.bo[buf].filetype))
end

--- Start the server for a buffer, or let the one that runs have it.
---@param buf integer
function M.attach(buf)
  if not wanted(buf) or rpc.client(buf) then
    return
  end
  local cmd, where = M.find()
  local problem = not cmd and where
  if cmd and vim.fn.executable(cmd[1]) ~= 1 then
    problem = cmd[1] .. " cannot be run: see `cmd` in setup()"
  end
  if not cmd or problem then
    vim.notify_once("treeline: " .. problem, vim.log.levels.ERROR)
    return
  end
  vim.lsp.start({
    name = rpc.NAME,
    cmd = cmd,
    root_dir = vim.fs.root(buf, config.options.root_markers),
    init_options = settings(),
    settings = { treeline = settings() },
    capabilities = capabilities(),
    handlers = { ["treeline/status"] = status.received },
    on_exit = M.ended,
  }, { bufnr = buf, silent = false })
end

--- Take a buffer away from the server.
---@param buf integer
function M.detach(buf)
  local client = rpc.client(buf)
  if client then
    vim.lsp.buf_detach_client(buf, client.id)
  end
end

--- Attach every buffer that has none.
function M.attach_all()
  for _, buf in ipairs(vim.api.nvim_list_bufs()) do
    M.attach(buf)
  end
end

--- Try again, however often the server has ended.
function M.revive()
  deaths = {}
  M.attach_all()
end

---@param code integer
---@param signal integer
---@param client_id integer
function M.ended(code, signal, client_id)
  status.forget(client_id)
  if (code == 0 and signal == 0) or signal == SIGTERM or vim.v.exiting ~= vim.NIL then
    return
  end
  local now = vim.uv.now() / 1000
  deaths = vim.tbl_filter(function(at)
    return now - at < WITHIN_SECONDS
  end, deaths)
  deaths[#deaths + 1] = now
  local again = #deaths <= MOST_STARTS
  local what = signal ~= 0 and ("signal %d"):format(signal) or ("exit status %d"):format(code)
  vim.schedule(function()
    vim.notify(
      ("treeline: the language server has ended (%s); %s"):format(
        what,
        again and "it is started again" or ":Treeline log may say why, :Treeline restart tries again"
      ),
      again and vim.log.levels.WARN or vim.log.levels.ERROR
    )
    if again then
      vim.defer_fn(M.attach_all, 200) -- first Neovim itself has to notice that its client is gone
    end
  end)
end

return M
