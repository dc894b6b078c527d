return {
  run = function(t)
    t.open("through.py", { "import os", "", "", "def read_lines(path):", "    with open(path) as f:" })
    t.type("<CR>")
    local ghost = t.wait_for_ghost()
    local first = ghost:match("^[^\n]*")
    local before, passes = t.text(), t.passes()
    local lost, drawn = {}, #first
    vim.api.nvim_create_autocmd("TextChangedI", { -- registered after the plug-in's, so that it sees what that has drawn
      callback = function()
        local now = t.ghost()
        if now ~= ghost:sub(#t.text() - #before + 1) then
          lost[#lost + 1] = now or "nothing"
        end
      end,
    })
    local function answers()
      local sum = 0
      for _, count in pairs(t.requests()) do
        sum = sum + count
      end
      return sum
    end
    for char in first:sub(1, drawn - 1):gmatch(".") do
      local known = answers()
      t.type(char == "<" and "<lt>" or char)
      t.wait("the answer to this key", function()
        return answers() > known
      end)
    end
    t.eq({}, lost, "with every key, what is left was drawn at once")
    t.eq(ghost:sub(drawn), t.ghost(), "what is left")
    t.eq(passes, t.passes(), "passes of the model")
    assert((t.requests()["typed through"] or 0) > 0, vim.inspect(t.requests()))
    t.type("<BS>")
    t.wait("the suggestion to follow back", function()
      return t.ghost() == ghost:sub(drawn - 1)
    end)
    t.eq(passes, t.passes(), "passes of the model after going back")
    t.type("~")
    t.wait("other text to end it", function()
      return t.ghost() ~= ghost:sub(drawn) and t.ghost() ~= ghost:sub(drawn - 1)
    end)
  end,
}
