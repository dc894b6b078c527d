return {
  setup = { keys = { accept = "<Tab>" } },
  run = function(t)
    t.open("pairs.py", { "import os", "", "", "def exists(path):", "    return os.path.isfile()" })
    t.type("<Left>")
    local before, ghost = t.text(), t.wait_for_ghost()
    local line = vim.api.nvim_get_current_line()
    t.eq(1, select(2, line:gsub("%)", "")), "closing brackets before")
    t.eq(nil, ghost:find(")", 1, true), "the bracket that is there is not drawn again")
    local shown, at = "", 0 -- the line with what is drawn where it is drawn: before the bracket, and perhaps behind it
    for _, mark in ipairs(t.marks()) do
      if mark[4].virt_text_pos == "inline" then
        shown = shown .. line:sub(at + 1, mark[3])
        at = mark[3]
        for _, chunk in ipairs(mark[4].virt_text) do
          shown = shown .. chunk[1]
        end
      end
    end
    shown = shown .. line:sub(at + 1)
    t.type("<Tab>")
    t.eq(before:sub(1, -#line - 1) .. shown, t.text(), "text")
  end,
}
