return {
  run = function(t)
    vim.keymap.set("i", "<Tab>", function()
      return require("treeline").accept() and "" or "<Tab>"
    end, { expr = true })
    t.open("expression.py", t.area("    return"))
    t.type(" ")
    local ghost, before = t.wait_for_ghost(), t.text()
    t.type("<Tab>")
    t.wait("the text", function()
      return t.text() == before .. ghost
    end)
    t.type("<Esc>o<Esc>S<C-v>x41<Tab>")
    assert(vim.api.nvim_get_current_line():find("A"), vim.api.nvim_get_current_line())
  end,
}
