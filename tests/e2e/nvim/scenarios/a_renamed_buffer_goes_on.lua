return {
  run = function(t)
    t.open("before.py", t.area("    return "))
    t.wait_for_ghost()
    t.type("<Esc>")
    vim.cmd.file("after.py")
    t.wait("the server to hear of the new name", function()
      return #vim.lsp.get_clients({ name = "treeline", bufnr = 0 }) > 0
    end)
    t.type("GA")
    t.wait_for_ghost()
    t.eq(nil, t.requests()["unknown document"], "requests for a document that the server does not know")
    t.type("<Esc>")
    vim.cmd("silent saveas! third.py")
    t.wait("the server to hear of the third name", function()
      return #vim.lsp.get_clients({ name = "treeline", bufnr = 0 }) > 0
    end)
    t.type("GA")
    t.wait_for_ghost()
    t.eq(nil, t.requests()["unknown document"], "requests for a document that the server does not know")
  end,
}
