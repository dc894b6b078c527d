return {
  setup = { keys = { accept = "<Tab>" } },
  run = function(t)
    local above = { "def area(width, height):", "    # 𝔘𝔘 Fläche", '    x = "Ä𝔘日"; return width * height', "", "" }
    t.open("größe.py", vim.list_extend(above, { "def größe(width, height):", "    # 𝔘𝔘 Fläche" }))
    local encoding = vim.lsp.get_clients({ name = "treeline" })[1].offset_encoding
    t.eq(vim.env.TREELINE_TEST_ENCODING or "utf-8", encoding, "the negotiated encoding")
    t.type('<CR>x = "Ä𝔘日"; return ')
    local ghost = t.wait_for_ghost()
    local before = t.text()
    t.eq(vim.api.nvim_win_get_cursor(0)[2], t.marks()[1][3], "the column of the ghost text")
    t.type("<Tab>")
    t.eq(before .. ghost, t.text(), "text")
  end,
}
