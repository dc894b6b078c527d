-- What no model is needed for: which pieces are drawn where, and what an accept of them leaves.
return {
  bare = true,
  run = function(t)
    local suggestion, ghost = require("treeline.suggestion"), require("treeline.ghost")
    local client = { id = 1, offset_encoding = "utf-16" }
    vim.cmd.enew()
    local function put(line, col)
      vim.api.nvim_buf_set_lines(0, 0, -1, false, { line })
      vim.api.nvim_win_set_cursor(0, { 1, col })
      ghost.clear(0)
    end
    local function item(text, from, to)
      local range = { start = { line = 0, character = from }, ["end"] = { line = 0, character = to } }
      return suggestion.read({ insertText = text, range = range }, 0, 0, vim.api.nvim_win_get_cursor(0)[2], client)
    end
    local function drawn(one)
      local col = vim.api.nvim_win_get_cursor(0)[2]
      local rest = suggestion.rest(one, 0, 0, col)
      ghost.draw(0, 0, col, rest)
      return rest, t.marks()
    end
    vim.cmd.startinsert()

    put("𝔘 = f([])", 10) -- between the brackets; the first character has four bytes and two units
    local rest, marks = drawn(item("𝔘 = f([1, 2], key=3)", 0, 10))
    t.eq({ text = "1, 2], key=3)", covered = "])" }, rest, "rest")
    t.eq({ { 10, "1, 2" }, { 11, ", key=3" } }, vim.tbl_map(function(mark)
      return { mark[3], mark[4].virt_text[1][1] }
    end, marks), "pieces")
    suggestion.insert(0, rest, "1, 2]")
    t.eq("𝔘 = f([1, 2])", t.text(), "a part replaces what it reaches")
    local bare = { insertText = ", key=3)" }
    rest = drawn(suggestion.read(bare, 0, 0, vim.api.nvim_win_get_cursor(0)[2], client))
    t.eq({ text = ", key=3)", covered = "" }, rest, "an item without a range stands at the cursor")

    put("f()", 2)
    rest, marks = drawn(item("f(\n\ta,\n)", 0, 3))
    t.eq({ "inline", "overlay" }, { marks[1][4].virt_text_pos, marks[2][4].virt_text_pos }, "the bracket is hidden")
    t.eq({ "        a,", ")" }, { marks[1][4].virt_lines[1][1][1], marks[1][4].virt_lines[2][1][1] }, "lines below")
    suggestion.insert(0, rest, rest.text)
    t.eq("f(\n\ta,\n)", t.text(), "text")
    t.eq({ 3, 1 }, vim.api.nvim_win_get_cursor(0), "cursor")

    put("x = ", 4)
    local one = item("x = a(b)", 0, 4)
    put("x = a()", 6) -- the editor has closed what was typed
    t.eq({ text = "b)", covered = ")" }, suggestion.rest(one, 0, 0, 6), "rest")
    t.eq(nil, suggestion.rest(one, 0, 0, 4), "text stands behind the cursor that was not there")
    put("x = b", 5)
    t.eq(nil, suggestion.rest(one, 0, 0, 5), "other text was typed")
    t.eq(nil, item("x = b + 1", 0, 3), "a range that ends before the cursor is for another place")
  end,
}
