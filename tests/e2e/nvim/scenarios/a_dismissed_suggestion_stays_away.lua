return {
  setup = { keys = { dismiss = "<C-]>" } },
  run = function(t)
    t.open("dismiss.py", t.area("    return"))
    t.type(" ")
    t.wait_for_ghost()
    t.type("<C-]>")
    t.eq(nil, t.ghost(), "ghost text")
    local text = t.text()
    t.requests() -- a round trip: whatever was under way has been answered
    t.eq(nil, t.ghost(), "ghost text after a round trip")
    t.eq(text, t.text(), "text")
    t.type("w")
    t.wait("a suggestion for the next key", t.ghost)
    t.type("<Esc>")
    t.eq(nil, t.ghost(), "ghost text outside insert mode")
  end,
}
