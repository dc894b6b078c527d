-- The ghost text: what a suggestion would insert, drawn around the cursor without being there.
local text = require("treeline.text")

local M = {}

M.namespace = vim.api.nvim_create_namespace("treeline")
M.HIGHLIGHT = "TreelineSuggestion"

local MARK = 1 -- further ones count from here

---@param buf integer
---@param line string
---@return string
local function untabbed(buf, line)
  local width = vim.bo[buf].tabstop
  return (line:gsub("()\t", function(at)
    return (" "):rep(width - (at - 1) % width)
  end))
end

--- The pieces of the first line: one before each covered character, and one behind the last.
---@param first string
---@param whole string
---@param covered string
---@return string[]? pieces nil if the covered characters belong to other lines
local function pieces(first, whole, covered)
  local places = text.align(whole, covered)
  if not places or (places[#places] or 0) > #first then
    return nil
  end
  local found, from = {}, 1
  for _, place in ipairs(places) do
    found[#found + 1] = first:sub(from, place - 1)
    from = place + 1
  end
  found[#found + 1] = first:sub(from)
  return found
end

--- Draw `rest` at (row, col), in place of what is drawn.
---@param buf integer
---@param row integer
---@param col integer
---@param rest treeline.Rest
function M.draw(buf, row, col, rest)
  local lines = vim.split(rest.text, "\n", { plain = true })
  local first = table.remove(lines, 1)
  local parts = pieces(first, rest.text, rest.covered)
  local used = 0
  local function mark(at, options)
    options.id, options.hl_mode = MARK + used, "combine"
    vim.api.nvim_buf_set_extmark(buf, M.namespace, row, at, options)
    used = used + 1
  end
  local below = {}
  for _, line in ipairs(lines) do
    below[#below + 1] = { { untabbed(buf, line), M.HIGHLIGHT } }
  end
  mark(col, {
    virt_text = { { untabbed(buf, parts and parts[1] or first), M.HIGHLIGHT } },
    virt_text_pos = "inline",
    virt_lines = #below > 0 and below or nil,
  })
  if not parts then -- it stands further down in the suggestion: hide it here
    mark(col, { virt_text = { { (" "):rep(vim.fn.strdisplaywidth(rest.covered)) } }, virt_text_pos = "overlay" })
  end
  for index = 2, parts and #parts or 0 do
    if parts[index] ~= "" then
      mark(col + index - 1, { virt_text = { { parts[index], M.HIGHLIGHT } }, virt_text_pos = "inline" })
    end
  end
  for _, old in ipairs(vim.api.nvim_buf_get_extmarks(buf, M.namespace, 0, -1, {})) do
    if old[1] >= MARK + used then
      vim.api.nvim_buf_del_extmark(buf, M.namespace, old[1])
    end
  end
end

--- Draw nothing.
---@param buf integer
function M.clear(buf)
  if vim.api.nvim_buf_is_valid(buf) then
    vim.api.nvim_buf_clear_namespace(buf, M.namespace, 0, -1)
  end
end

return M
