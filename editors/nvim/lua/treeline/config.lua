local M = {}

---@class treeline.Keys
---@field accept? string take all of the suggestion
---@field accept_word? string take its next word
---@field accept_line? string take it up to the end of its line
---@field next? string ask for others and show the next one
---@field previous? string the same, the other way round
---@field dismiss? string hide it

---@class treeline.Options
---@field cmd? string[] the server's command; by default it is looked for
---@field settings? table<string, any> the server's settings, such as maxTokens
---@field filetypes? string[] only in these, instead of in every file
---@field root_markers? string[] what the top folder of a workspace holds
---@field automatic? boolean ask while typing; otherwise only `next` asks
---@field keys? treeline.Keys insert-mode keys; none by default

---@type treeline.Options
M.defaults = { settings = {}, root_markers = { ".git", "pyproject.toml" }, automatic = true, keys = {} }

---@type treeline.Options
M.options = vim.deepcopy(M.defaults)

---@type table<string, string>
local TYPES = {
  cmd = "table",
  settings = "table",
  filetypes = "table",
  root_markers = "table",
  automatic = "boolean",
  keys = "table",
}
M.ACTIONS = { "accept", "accept_word", "accept_line", "next", "previous", "dismiss" }

---@param where string
---@param key any
---@param known string[]
local function unknown(where, key, known)
  table.sort(known)
  error(("treeline: %s has no %q: known are %s"):format(where, tostring(key), table.concat(known, ", ")), 0)
end

--- Put a user's options over the defaults.
---@param given? treeline.Options
function M.set(given)
  for key, value in pairs(given or {}) do
    if not TYPES[key] then
      unknown("setup()", key, vim.tbl_keys(TYPES))
    elseif type(value) ~= TYPES[key] then
      error(("treeline: setup(): %s is a %s: expected a %s"):format(key, type(value), TYPES[key]), 0)
    end
  end
  for action in pairs(given and given.keys or {}) do
    if not vim.tbl_contains(M.ACTIONS, action) then
      unknown("keys", action, vim.deepcopy(M.ACTIONS))
    end
  end
  M.options = vim.tbl_extend("force", vim.deepcopy(M.defaults), given or {})
end

return M
