return {
  setup = { keys = { accept = "<Tab>" } },
  run = function(t)
    t.open("pairs.py", { "import os", "", "", "def exists(path):", "    return os.path.isfile()" })
    t.type("<Left>")
    local before, ghost = t.text(), t.wait_for_ghost()
    local line = vim.api.nvim_get_current_line()
    t.eq(1, select(2, line:gsub("%)", "")), "closing brackets before")
    t.eq(nil, ghost:find(")", 1, true), "the bracket that is there is not drawn again")
    t.type("<Tab>")
    local function without_brackets(text)
      return (text:gsub("%)", ""))
    end
    t.eq(without_brackets(before) .. ghost, without_brackets(t.text()), "text, but for closing brackets")
    t.eq(1, select(2, vim.api.nvim_get_current_line():gsub("%)", "")), "closing brackets after")
  end,
}
