return {
  setup = { keys = { accept_word = "<C-l>", accept_line = "<C-j>" } },
  run = function(t)
    t.open("area.py", { "class Rectangle:", "    def __init__(self, width, height):" })
    t.type("<CR>")
    local before, ghost = t.text(), t.wait_for_ghost()
    assert(ghost:find("\n"), "the test wants a suggestion of several lines: " .. ghost)
    local word = ghost:match("^%s*[%w_]+")
    t.type("<C-l>")
    t.eq(before .. word, t.text(), "the text after one word")
    t.eq(ghost:sub(#word + 1), t.ghost(), "what is left is drawn at once")
    t.wait("the server to agree", function()
      return t.requests()["typed through"]
    end)
    t.eq(ghost:sub(#word + 1), t.ghost(), "and stays when the server has answered")
    t.type("<C-j>")
    t.eq(before .. ghost:match("^[^\n]*"), t.text(), "the text after one line")
    t.eq(ghost:match("^[^\n]*(\n.*)$"), t.ghost(), "the next line is left")
    t.type("<C-j>")
    t.eq(before .. ghost:match("^[^\n]*\n[^\n]*"), t.text(), "the text after two lines")
  end,
}
