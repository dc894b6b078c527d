return {
  setup = { automatic = false, keys = { next = "<C-n>", previous = "<C-p>", accept = "<Tab>" } },
  run = function(t)
    t.open("cycle.py", { "import os", "import sys", "", "", "def main(argv):", "    for name in argv:" })
    t.type("<CR>")
    local before = t.text()
    t.eq(nil, t.ghost(), "nothing is asked for by itself")
    t.type("<C-n>")
    local first = t.wait_for_ghost()
    local seen, order = { [first] = true }, { first }
    while true do
      t.type("<C-n>")
      local ghost = t.ghost()
      if seen[ghost] then
        t.eq(first, ghost, "after the last one comes the first")
        break
      end
      seen[ghost], order[#order + 1] = true, ghost
    end
    assert(#order > 1, "only one candidate: " .. first)
    t.type("<C-p>")
    t.eq(order[#order], t.ghost(), "the one before the first is the last")
    t.eq({ answered = 1 }, { answered = t.requests().answered }, "one request brought them all")
    t.type("<Tab>")
    t.eq(before .. order[#order], t.text(), "text")
  end,
}
