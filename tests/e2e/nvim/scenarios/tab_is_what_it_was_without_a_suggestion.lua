return {
  bare = true,
  run = function(t)
    vim.keymap.set("i", "<C-g>", "mapped before")
    vim.keymap.set("i", "<C-h>", "'<' .. 'lt>2'", { expr = true, replace_keycodes = true })
    local keys = { accept = "<Tab>", accept_word = "<C-g>", accept_line = "<C-h>", next = "<C-b>" }
    vim.cmd.new()
    vim.keymap.set("i", "<C-g>", "of another buffer", { buffer = true })
    require("treeline").setup({ cmd = vim.json.decode(vim.env.TREELINE_TEST_SERVER), automatic = false, keys = keys })
    vim.cmd.bwipeout()
    t.open("plain.txt", { "x = 1" })
    vim.bo.expandtab = false
    t.type("<CR><Tab><C-g> <C-h>")
    t.eq("x = 1\n\tmapped before <2", t.text(), "text")
    t.type("<CR>")
    vim.snippet.expand("one($1, $2)") -- Neovim's own <Tab> goes to the next place of a snippet
    t.type("a<Tab>b")
    t.eq("one(a, b)", vim.trim(vim.api.nvim_get_current_line()), "a snippet")
  end,
}
