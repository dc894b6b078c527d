return {
  setup = { keys = { accept = "<Tab>" } },
  run = function(t)
    t.open("reader.py", { "import os", "", "", "def read_lines(path):", "    with open(path) as f:" })
    local before = t.text()
    t.type("<CR>")
    before = before .. "\n" .. vim.api.nvim_get_current_line()
    local ghost = t.wait_for_ghost()
    t.eq(before, t.text(), "ghost text is not in the buffer")
    local mark = t.marks()[1]
    local row, col = unpack(vim.api.nvim_win_get_cursor(0))
    t.eq({ row - 1, col }, { mark[2], mark[3] }, "it stands at the cursor")
    t.type("<Tab>")
    t.eq(before .. ghost, t.text(), "the text after accepting it")
    t.eq("i", vim.api.nvim_get_mode().mode, "mode")
    local lines = vim.split(t.text(), "\n")
    t.eq({ #lines, #lines[#lines] }, vim.api.nvim_win_get_cursor(0), "the cursor is behind it")
    t.wait("the server's count of it", function()
      return t.command("statistics").accepted == 1
    end)
    t.type("<Esc>u")
    t.eq(before, t.text(), "undo takes back the suggestion alone")
  end,
}
