-- `:checkhealth treeline`
local rpc = require("treeline.rpc")
local server = require("treeline.server")
local status = require("treeline.status")

local M = {}

---@param cmd string[]
local function check_version(cmd)
  local ok, process = pcall(vim.system, vim.list_extend(vim.deepcopy(cmd), { "--version" }), { text = true })
  local done = ok and process:wait(10000)
  if done and done.code == 0 then
    vim.health.ok("version: " .. vim.trim(done.stdout))
  else
    local said = not ok and tostring(process) or vim.trim(done and done.stderr or "")
    vim.health.error("it does not run: " .. (said ~= "" and said or "no answer within 10 s"))
  end
end

---@param client vim.lsp.Client
local function check_engine(client)
  vim.health.ok(("language server %d runs, positions in %s"):format(client.id, client.offset_encoding))
  local said = status.latest()
  if not said then
    vim.health.warn("engine: the server has said nothing of it yet")
  elseif said.state == "failed" then
    vim.health.error("engine: " .. said.message)
  elseif said.state == "ready" then
    vim.health.ok(("engine: ready, model %s"):format(said.model))
  else
    vim.health.warn(("engine: %s %s %d/%d"):format(said.state, said.phase, said.done, said.total))
  end
  if said and said.kind == "Inactive" then
    vim.health.warn("suggestions are switched off", { ":Treeline toggle" })
  end
end

function M.check()
  if vim.fn.has("nvim-0.10") == 0 then
    local health = vim.health or require("health") -- its place before 0.8, and its names before 0.10
    health.report_error("Neovim 0.10 or newer is needed")
    return
  end
  vim.health.start("treeline")
  vim.health.ok("Neovim " .. tostring(vim.version()))
  local cmd, where = server.find()
  if not cmd then
    vim.health.error(where)
    return
  end
  vim.health.ok(("server: %s (from %s)"):format(table.concat(cmd, " "), where))
  check_version(cmd)
  local client = rpc.client()
  if client then
    check_engine(client)
  else
    vim.health.info("no language server runs now: it starts with the first file")
  end
end

return M
