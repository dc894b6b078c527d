-- Treeline's suggestions as ghost text, for Neovim 0.10 and newer. `:help treeline`
local M = {}

local config = require("treeline.config")

---@type table<string, table<string, any>> what keys did before setup(), as maparg() says it
local former = {}

--- What a key is mapped to in all buffers; a buffer's own mapping comes before Treeline's anyway.
---@param key string
---@return table<string, any>
local function global_map(key)
  local buf = vim.api.nvim_create_buf(false, true) -- one without mappings of its own, which maparg() would prefer
  local found = vim.api.nvim_buf_call(buf, function()
    return vim.fn.maparg(key, "i", false, true)
  end)
  vim.api.nvim_buf_delete(buf, { force = true })
  return found
end

--- Let a key do what it does without Treeline: what it was mapped to, or what it is.
---@param key string
local function fall_back(key)
  local map, keys = former[key], key
  if map.callback then
    keys = map.callback()
  elseif map.rhs then
    keys = map.expr == 1 and tostring(vim.api.nvim_eval(map.rhs)) or map.rhs
  end
  if (map.callback and map.expr ~= 1) or not keys then
    return
  end
  local literal = map.expr == 1 and map.replace_keycodes ~= 1
  vim.api.nvim_feedkeys(literal and keys or vim.keycode(keys), map.noremap == 0 and "mi" or "ni", false)
end

---@param action string
---@param key string
local function map(action, key)
  former[key] = former[key] or global_map(key)
  vim.keymap.set("i", key, function()
    if not M[action]() then
      fall_back(key)
    end
  end, { desc = "Treeline: " .. action:gsub("_", " ") })
end

--- Start.
---@param options? treeline.Options
function M.setup(options)
  if vim.fn.has("nvim-0.10") == 0 then
    vim.notify("treeline: Neovim 0.10 or newer is needed", vim.log.levels.ERROR)
    return
  end
  config.set(options)
  vim.cmd.runtime("plugin/treeline.lua") -- whoever has put this folder on the path late has missed the command
  vim.api.nvim_set_hl(0, require("treeline.ghost").HIGHLIGHT, { link = "Comment", default = true })
  for _, action in ipairs(config.ACTIONS) do
    if config.options.keys[action] then
      map(action, config.options.keys[action])
    end
  end
  local session, server = require("treeline.session"), require("treeline.server")
  local group = vim.api.nvim_create_augroup("treeline", {})
  local function on(events, callback)
    vim.api.nvim_create_autocmd(events, { group = group, callback = callback })
  end
  on("BufFilePre", function(event)
    server.detach(event.buf) -- of a new name, Neovim itself tells the server only when saving
  end)
  on({ "BufReadPost", "BufNewFile", "BufFilePost", "FileType", "InsertEnter" }, function(event)
    vim.schedule(function() -- by then the type of the file is known
      server.attach(event.buf)
    end)
  end)
  on({ "TextChangedI", "TextChangedP", "CursorMovedI", "InsertEnter" }, function(event)
    if require("treeline.rpc").client(event.buf) then
      session.changed(event.buf)
    end
  end)
  on({ "InsertLeave", "BufLeave" }, session.leave)
  server.attach_all()
end

--- Take the suggestion.
---@return boolean whether there was one
function M.accept()
  return require("treeline.session").accept()
end

--- Take the next word of it.
---@return boolean
function M.accept_word()
  return require("treeline.session").accept(require("treeline.text").first_word)
end

--- Take it up to the end of a line.
---@return boolean
function M.accept_line()
  return require("treeline.session").accept(require("treeline.text").first_line)
end

--- Show the next suggestion; ask for some if there is none.
---@return boolean
function M.next()
  return require("treeline.session").cycle(1)
end

--- Show the previous one.
---@return boolean
function M.previous()
  return require("treeline.session").cycle(-1)
end

--- Hide it until something is typed.
---@return boolean whether there was one
function M.dismiss()
  return require("treeline.session").dismiss()
end

--- What the cursor would get, or nil.
---@return string?
function M.visible()
  return require("treeline.session").visible()
end

--- For a status line.
---@return string
function M.status()
  return require("treeline.status").line()
end

return M
