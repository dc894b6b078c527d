-- Talking to the server, the same way in all versions of Neovim.
local M = {}

M.NAME = "treeline"

local methods = vim.fn.has("nvim-0.11") == 1 -- before that, a client's functions took no client

---@param client vim.lsp.Client
---@param method string
---@param params table
---@param handler fun(err: any, result: any)
---@param buf? integer
---@return integer? id
function M.request(client, method, params, handler, buf)
  local send = client.request --[[@as function]]
  local sent, id
  if methods then
    sent, id = send(client, method, params, handler, buf)
  else
    sent, id = send(method, params, handler, buf)
  end
  return sent and id or nil
end

---@param client vim.lsp.Client
---@param id integer
function M.cancel(client, id)
  local cancel = client.cancel_request --[[@as function]]
  if methods then
    cancel(client, id)
  else
    cancel(id)
  end
end

--- Have the server carry out a command.
---@param client vim.lsp.Client
---@param command string
---@param arguments? any[]
---@param done? fun(result: any)
---@param buf? integer
function M.execute(client, command, arguments, done, buf)
  local params = { command = command, arguments = arguments }
  M.request(client, "workspace/executeCommand", params, function(err, result)
    if err then
      vim.notify(("treeline: %s: %s"):format(command, err.message or vim.inspect(err)), vim.log.levels.ERROR)
    elseif done then
      done(result)
    end
  end, buf)
end

--- The server of a buffer, or any if there is none.
---@param buf? integer
---@return vim.lsp.Client?
function M.client(buf)
  return vim.lsp.get_clients({ name = M.NAME, bufnr = buf })[1]
end

return M
