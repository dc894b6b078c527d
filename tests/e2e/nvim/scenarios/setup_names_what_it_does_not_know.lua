return {
  bare = true,
  run = function(t)
    local function problem(options)
      local ok, said = pcall(require("treeline").setup, options)
      return not ok and said
    end
    t.eq(
      'treeline: setup() has no "setings": known are automatic, cmd, filetypes, keys, root_markers, settings',
      problem({ setings = {} })
    )
    t.eq("treeline: setup(): cmd is a string: expected a table", problem({ cmd = "treeline-lsp" }))
    t.eq(
      'treeline: keys has no "tab": known are accept, accept_line, accept_word, dismiss, next, previous',
      problem({ keys = { tab = "x" } })
    )
    local before = vim.api.nvim_get_keymap("i")
    require("treeline").setup({})
    t.eq(#before, #vim.api.nvim_get_keymap("i"), "keys are not mapped by themselves")
    t.eq("", require("treeline").status(), "status without a server")
  end,
}
