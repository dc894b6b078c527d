-- `:Treeline explain` and its like.
local rpc = require("treeline.rpc")

local M = {}

---@param command string
---@param arguments any[]
---@param done fun(result: any)
local function server(command, arguments, done)
  local client = rpc.client(0) or rpc.client()
  if client then
    rpc.execute(client, "treeline.server." .. command, arguments, done, 0)
  else
    vim.notify("treeline: no language server is running; :checkhealth treeline may say why", vim.log.levels.WARN)
  end
end

---@type table<string, fun(argument?: string)>
M.all = {
  --- Say why the last request of this buffer was answered as it was.
  explain = function()
    server("explain", { vim.uri_from_bufnr(0) }, function(result)
      vim.notify("Treeline: " .. result.message)
    end)
  end,
  --- Switch suggestions on or off; those of one language if it is named.
  toggle = function(language)
    server("toggle", { language or "" }, function(on)
      if not on then
        require("treeline.session").leave()
      end
      vim.notify(("Treeline: %s %s"):format(language or "suggestions", on and "on" or "off"))
    end)
  end,
  --- Start the engine anew; the language server too, if it has ended.
  restart = function()
    local client = rpc.client(0) or rpc.client()
    if not client then
      require("treeline.server").revive()
    else
      rpc.execute(client, "treeline.server.restart", {}, function()
        vim.notify("Treeline: the engine is starting anew")
      end)
    end
  end,
  --- Show the counts of this session.
  statistics = function()
    server("statistics", {}, function(result)
      vim.notify(vim.inspect(result))
    end)
  end,
  --- Open Neovim's log of language servers, which holds what this one says.
  log = function()
    local path = vim.lsp.log and vim.lsp.log.get_filename and vim.lsp.log.get_filename() or vim.lsp.get_log_path()
    vim.cmd.tabedit(vim.fn.fnameescape(path))
  end,
}

---@param arguments string[]
function M.run(arguments)
  local action = M.all[arguments[1]]
  if action then
    action(arguments[2])
  else
    local known = vim.tbl_keys(M.all)
    table.sort(known)
    local line = "treeline: there is no :Treeline %s, but %s"
    vim.notify(line:format(arguments[1], table.concat(known, ", ")), vim.log.levels.ERROR)
  end
end

---@param lead string
---@param line string
---@return string[]
function M.complete(lead, line)
  local words = vim.split(line, "%s+")
  if #words > 2 then
    return words[2] == "toggle" and vim.fn.getcompletion(lead, "filetype") or {}
  end
  local found = vim.tbl_filter(function(name)
    return vim.startswith(name, lead)
  end, vim.tbl_keys(M.all))
  table.sort(found)
  return found
end

return M
