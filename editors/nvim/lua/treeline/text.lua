-- Positions: Neovim counts bytes, the protocol whatever the client and the server have agreed on.
local M = {}

local new = vim.fn.has("nvim-0.11") == 1

--- From bytes to the protocol's units.
---@param line string
---@param byte integer
---@param encoding string "utf-8", "utf-16" or "utf-32"
---@return integer
function M.to_units(line, byte, encoding)
  byte = math.min(byte, #line)
  if encoding == "utf-8" then
    return byte
  elseif new then
    return vim.str_utfindex(line, encoding, byte, false)
  end
  ---@diagnostic disable-next-line: param-type-mismatch, missing-parameter, deprecated
  local points, units = vim.str_utfindex(line, byte)
  return encoding == "utf-16" and units or points
end

--- From the protocol's units to bytes.
---@param line string
---@param units integer
---@param encoding string
---@return integer
function M.to_byte(line, units, encoding)
  if encoding == "utf-8" then
    return math.min(units, #line)
  elseif new then
    return vim.str_byteindex(line, encoding, units, false)
  end
  local ok, byte = pcall(vim.str_byteindex, line, units, encoding == "utf-16")
  return ok and byte --[[@as integer]]
    or #line
end

---@param buf integer
---@param row integer from 0
---@return string
function M.line(buf, row)
  return vim.api.nvim_buf_get_lines(buf, row, row + 1, false)[1] or ""
end

--- The cursor of the current window, as a row from 0 and a byte.
---@return integer row
---@return integer col
function M.cursor()
  local at = vim.api.nvim_win_get_cursor(0)
  return at[1] - 1, at[2]
end

--- The next word of `text`, with the blanks and line breaks before it.
---@param text string
---@return string
function M.first_word(text)
  return text:match("^%s*[%w_\128-\255]+") or text:match("^%s*[^%w_%s\128-\255]+") or text
end

--- The next line of `text` that is not blank, with what is before it and without the line break behind it.
---@param text string
---@return string
function M.first_line(text)
  return text:match("^%s*[^\n]*")
end

--- Where the characters of `covered` stand in `text`, each as far to the right as it can; nil if not all of them do.
---@param text string
---@param covered string
---@return integer[]? places bytes, from 1
function M.align(text, covered)
  local places, before = {}, #text + 1
  for at = #covered, 1, -1 do
    local char = covered:sub(at, at)
    repeat
      before = before - 1
    until before < 1 or text:sub(before, before) == char
    if before < 1 then
      return nil
    end
    places[at] = before
  end
  return places
end

return M
