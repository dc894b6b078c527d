return {
  run = function(t)
    t.open(".env", { "TOKEN=" })
    t.type("a")
    t.wait("the reason", function()
      return (t.requests().excluded or 0) > 0
    end)
    t.eq(nil, t.ghost(), "ghost text")
    t.type("<Esc>")
    vim.cmd("Treeline explain")
    t.wait("the reason in words", function()
      return t.notified():find("Treeline: excluded: ")
    end)
  end,
}
