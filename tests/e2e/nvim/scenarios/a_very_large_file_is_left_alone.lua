return {
  run = function(t)
    for name, lines in pairs({ ["lines.py"] = vim.fn["repeat"]({ "x = 1" }, 100001), ["bytes.py"] = { ("x"):rep(5000001) } }) do
      vim.fn.writefile(lines, name)
      vim.cmd.edit(name)
    end
    t.open("small.py", t.area("    return")) -- the server for it would have been started before
    t.eq(1, #vim.lsp.get_buffers_by_client_id(vim.lsp.get_clients({ name = "treeline" })[1].id), "files it hears of")
    t.type(" ")
    t.wait_for_ghost()
  end,
}
