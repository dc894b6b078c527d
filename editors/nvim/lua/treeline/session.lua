-- The suggestions of the buffer that is typed in: asked for, drawn, followed, taken.
local config = require("treeline.config")
local ghost = require("treeline.ghost")
local rpc = require("treeline.rpc")
local suggestion = require("treeline.suggestion")
local text = require("treeline.text")

local M = {}

local INVOKED, AUTOMATIC = 1, 2
local PAUSE_MS = 4 -- several events announce one keystroke; how long to wait after it, the server decides

---@class treeline.Session
---@field buf integer
---@field items treeline.Suggestion[]
---@field index integer
---@field invoked boolean whether the items answer an explicit request
---@field request? { client: vim.lsp.Client, id: integer }
---@field asked integer counts requests: only the answer to the last one is of interest
---@field seen string the place that was looked at last
local session ---@type treeline.Session

---@param buf integer
local function begin(buf)
  session = { buf = buf, items = {}, index = 1, invoked = false, asked = session and session.asked or 0, seen = "" }
end
begin(-1)

local timer = assert(vim.uv.new_timer())

---@return boolean
local function inserting()
  return vim.api.nvim_get_mode().mode:match("^[iR]") ~= nil
end

---@param buf integer
---@return string
local function place(buf)
  local row, col = text.cursor()
  return ("%d:%d:%d:%d"):format(buf, vim.api.nvim_buf_get_changedtick(buf), row, col)
end

---@return treeline.Suggestion?
---@return treeline.Rest?
local function current()
  local item = session.items[session.index]
  if not item or vim.api.nvim_get_current_buf() ~= session.buf then
    return nil, nil
  end
  local rest = suggestion.rest(item, session.buf, text.cursor())
  return rest and item, rest
end

local function redraw()
  local _, rest = current()
  if rest and inserting() then
    local row, col = text.cursor()
    ghost.draw(session.buf, row, col, rest)
  else
    session.items = {}
    ghost.clear(session.buf)
  end
end

local function cancel()
  timer:stop()
  session.asked = session.asked + 1
  if session.request then
    rpc.cancel(session.request.client, session.request.id)
    session.request = nil
  end
end

--- Show what the server has answered.
---@param client vim.lsp.Client
---@param result any
---@param kind integer
---@param step integer
local function show(client, result, kind, step)
  local items = {} ---@type treeline.Suggestion[]
  local row, col = text.cursor()
  for _, item in ipairs(result and (result.items or result) or {}) do
    local one = suggestion.read(item, session.buf, row, col, client)
    if one and suggestion.rest(one, session.buf, row, col) then
      items[#items + 1] = one
    end
  end
  local shown = session.items[session.index]
  session.items, session.index, session.invoked = items, 1, kind == INVOKED
  if step ~= 0 and #items > 1 and shown and shown.text == items[1].text then
    session.index = step % #items + 1 -- the first one is on the screen already
  end
  redraw()
end

--- Ask for suggestions at the cursor.
---@param kind integer
---@param step? integer how far to go in the list that comes
local function ask(kind, step)
  local buf = session.buf
  local client = rpc.client(buf)
  if not client then
    return
  end
  local row, col = text.cursor()
  local units = text.to_units(text.line(buf, row), col, client.offset_encoding)
  local params = {
    textDocument = { uri = vim.uri_from_bufnr(buf) },
    position = { line = row, character = units },
    context = { triggerKind = kind },
  }
  session.asked = session.asked + 1
  local number, where = session.asked, place(buf)
  local id = rpc.request(client, "textDocument/inlineCompletion", params, function(err, result)
    if number ~= session.asked then
      return -- a newer one is under way, or nobody wants it any more
    end
    session.request = nil
    local there = vim.api.nvim_get_current_buf() == session.buf and place(session.buf) == where
    if not err and there and inserting() then
      show(client, result, kind, step or 0)
    end
  end, buf)
  session.request = id and { client = client, id = id } or nil
end

--- Something was typed, or the cursor was moved.
---@param buf integer
function M.changed(buf)
  if buf ~= session.buf then
    M.leave()
    begin(buf)
  end
  local where = place(buf)
  if where == session.seen then
    return
  end
  session.seen = where
  redraw()
  if config.options.automatic then
    timer:start(PAUSE_MS, 0, function()
      vim.schedule(function()
        if session.seen == where and inserting() and vim.api.nvim_get_current_buf() == buf then
          ask(AUTOMATIC)
        end
      end)
    end)
  end
end

--- Hide what is shown and stop what is under way.
function M.leave()
  cancel()
  ghost.clear(session.buf)
  session.items, session.seen = {}, ""
end

--- The text that the cursor would get, or nil where nothing is shown.
---@return string?
function M.visible()
  local _, rest = current()
  return rest and rest.text
end

--- Hide the suggestion until something is typed.
---@return boolean whether there was one
function M.dismiss()
  local shown = M.visible() ~= nil
  cancel()
  session.items = {}
  ghost.clear(session.buf)
  return shown
end

--- Take the suggestion, or the part of it that `part` returns.
---@param part? fun(rest: string): string
---@return boolean whether there was one
function M.accept(part)
  local item, rest = current()
  if not item or not rest then
    return false
  end
  local piece = part and part(rest.text) or rest.text
  local ok, problem = pcall(suggestion.insert, session.buf, rest, piece)
  if not ok and tostring(problem):find("E565", 1, true) then -- within an expression mapping text cannot change
    vim.schedule(function()
      M.accept(part)
    end)
    return true
  elseif not ok then
    error(problem, 0)
  end
  if #piece == #rest.text then
    M.leave()
    local client = vim.lsp.get_client_by_id(item.client_id)
    if item.command and client then
      rpc.execute(client, item.command.command, item.command.arguments, nil, session.buf)
    end
  end
  M.changed(session.buf)
  return true
end

--- Show another suggestion; ask for some if that was not done yet.
---@param step integer 1 or -1
---@return boolean whether there is a server to ask
function M.cycle(step)
  local buf = vim.api.nvim_get_current_buf()
  if not inserting() or not rpc.client(buf) then
    return false
  end
  if buf ~= session.buf then
    M.leave()
    begin(buf)
  end
  if session.invoked and current() then
    session.index = (session.index - 1 + step) % #session.items + 1
    redraw()
  else
    session.seen = place(buf)
    ask(INVOKED, step)
  end
  return true
end

return M
