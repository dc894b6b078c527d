-- What the server says of itself (treeline/status), for status lines.
local rpc = require("treeline.rpc")

local M = {}

---@class treeline.Status
---@field kind "Normal"|"Error"|"Inactive"
---@field busy boolean
---@field message string
---@field state "starting"|"loading"|"ready"|"failed"
---@field model string
---@field phase string
---@field done integer
---@field total integer
---@field tokensPerSecond? number
---@field acceptedPerPass? number

---@type table<integer, treeline.Status>
local latest = {}

--- The handler of treeline/status.
---@param _ any
---@param status treeline.Status
---@param context { client_id: integer }
function M.received(_, status, context)
  latest[context.client_id] = status
  vim.api.nvim_exec_autocmds("User", { pattern = "TreelineStatus", modeline = false })
  vim.cmd.redrawstatus()
end

---@param client_id integer
function M.forget(client_id)
  latest[client_id] = nil
end

--- What the server of a buffer said last.
---@param buf? integer
---@return treeline.Status?
function M.latest(buf)
  local client = rpc.client(buf or 0) or (not buf and rpc.client()) or nil
  return client and latest[client.id]
end

---@param value any
---@return number?
local function number(value)
  return type(value) == "number" and value or nil -- null arrives as vim.NIL
end

--- A few words for a status line; empty where no server is attached.
---@return string
function M.line()
  local status = M.latest(0)
  if not status then
    return ""
  elseif status.kind == "Inactive" then
    return "Treeline off"
  elseif status.state == "failed" then
    return "Treeline error"
  elseif status.state ~= "ready" then
    return status.total > 0 and ("Treeline loading %d/%d"):format(status.done, status.total) or "Treeline loading"
  end
  local speed = number(status.tokensPerSecond)
  return "Treeline" .. (status.busy and " ..." or speed and (" %.0f/s"):format(speed) or "")
end

return M
