return {
  setup = { cmd = { "/nonexistent/treeline-lsp" }, keys = { accept = "<Tab>" } },
  run = function(t)
    vim.fn.writefile({ "x = 1" }, "missing.py")
    vim.cmd.edit("missing.py")
    t.wait("the message", function()
      return t.notified():find("treeline: /nonexistent/treeline-lsp cannot be run: see `cmd` in setup()", 1, true)
    end)
    t.type("A0<Tab><Esc>A1<Esc>")
    t.eq(1, select(2, t.notified():gsub("cannot be run", "")), "how often it was said")
    t.eq("x = 10  1", t.text(), "text")
    vim.cmd("Treeline explain")
    t.wait("the command to say so", function()
      return t.notified():find("no language server is running")
    end)
  end,
}
