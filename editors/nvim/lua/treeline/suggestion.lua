-- One suggestion: what of it is still to come at the cursor, and what behind the cursor it takes the place of.
local text = require("treeline.text")

local M = {}

---@class treeline.Suggestion
---@field text string all of it, from (row, col) on
---@field row integer
---@field col integer
---@field after string what followed the cursor on its line when the suggestion came
---@field covered string the beginning of `after` that it takes the place of
---@field client_id integer
---@field command? lsp.Command

---@class treeline.Rest
---@field text string what the cursor is still to get
---@field covered string what behind the cursor goes in exchange

---@param item table an item of textDocument/inlineCompletion
---@param buf integer
---@param row integer of the cursor
---@param col integer of the cursor
---@param client vim.lsp.Client
---@return treeline.Suggestion?
function M.read(item, buf, row, col, client)
  local insert = item.insertText
  if type(insert) == "table" then
    insert = insert.value
  end
  local first, last, line = row, row, text.line(buf, row)
  local from, to = col, col
  if item.range then
    first, last = item.range.start.line, item.range["end"].line
    from = text.to_byte(text.line(buf, first), item.range.start.character, client.offset_encoding)
    to = text.to_byte(line, item.range["end"].character, client.offset_encoding)
  end
  if last ~= row or to < col then
    return nil -- it is for another place
  end
  return {
    text = (insert:gsub("\r\n?", "\n")),
    row = first,
    col = from,
    after = line:sub(col + 1),
    covered = line:sub(col + 1, to),
    client_id = client.id,
    command = item.command,
  }
end

--- What of `covered` is left when `now` follows the cursor; nil if the line has changed in another way.
---@param suggestion treeline.Suggestion
---@param now string
---@return string?
local function covered_now(suggestion, now)
  local was, covered = suggestion.after, suggestion.covered
  if now == was then
    return covered
  end
  local more = #now - #was
  if more > 0 and now:sub(more + 1) == was and now:sub(1, more):match("^[%)%]}\"'`]+$") then
    return now:sub(1, more) .. covered -- closed by the editor, behind what was typed
  elseif more < 0 and -more <= #covered and was:sub(1 - more) == now then
    return covered:sub(1 - more) -- stepped over
  end
  return nil
end

--- What of a suggestion is still to come at (row, col), or nil if the text there does not go along with it.
---@param suggestion treeline.Suggestion
---@param buf integer
---@param row integer
---@param col integer
---@return treeline.Rest?
function M.rest(suggestion, buf, row, col)
  if row < suggestion.row or (row == suggestion.row and col < suggestion.col) then
    return nil
  end
  local ok, lines = pcall(vim.api.nvim_buf_get_text, buf, suggestion.row, suggestion.col, row, col, {})
  local typed = ok and table.concat(lines, "\n")
  if not typed or #typed >= #suggestion.text or suggestion.text:sub(1, #typed) ~= typed then
    return nil
  end
  local covered = covered_now(suggestion, text.line(buf, row):sub(col + 1))
  return covered and { text = suggestion.text:sub(#typed + 1), covered = covered } or nil
end

--- Put the beginning of `rest`, or all of it, where the cursor is; the cursor moves behind it.
---@param buf integer
---@param rest treeline.Rest
---@param piece string
function M.insert(buf, rest, piece)
  local row, col = text.cursor()
  local covered = #rest.covered
  if #piece < #rest.text then
    covered = 0 -- what the piece does not reach stays
    for _, place in ipairs(text.align(rest.text, rest.covered) or {}) do
      covered = covered + (place <= #piece and 1 or 0)
    end
  end
  local lines = vim.split(piece, "\n", { plain = true })
  vim.bo[buf].undolevels = vim.bo[buf].undolevels -- undo takes the suggestion back, and not what was typed before
  vim.api.nvim_buf_set_text(buf, row, col, row, col + covered, lines)
  local last = #lines[#lines]
  vim.api.nvim_win_set_cursor(0, { row + #lines, #lines == 1 and col + last or last })
end

return M
