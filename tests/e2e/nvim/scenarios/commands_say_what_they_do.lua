return {
  run = function(t)
    -- of what the server cuts short, no speed is known: this ends by itself
    t.open("commands.py", { "def area(width, height):", '    """Return the area of a rectangle."""', "    return" })
    t.type(" ")
    t.wait_for_ghost()
    t.wait("the status of an engine that rests", function()
      return require("treeline").status():find("^Treeline %d+/s$")
    end)
    t.type("<Esc>")
    local function says(command, what)
      vim.cmd(command)
      t.wait(command .. " to say " .. what, function()
        return t.notified():find(what)
      end)
    end
    says("Treeline explain", "Treeline: %l+ ?%l* %(.*cache %d+ ms") -- what became of the latest request, and its stages
    says("Treeline statistics", "charactersSaved")
    says("Treeline toggle", "Treeline: suggestions off")
    t.wait("the status", function()
      return require("treeline").status() == "Treeline off"
    end)
    t.type("A ")
    t.wait("the reason", function()
      return (t.requests().disabled or 0) > 0
    end)
    t.eq(nil, t.ghost(), "ghost text while switched off")
    t.type("<Esc>")
    says("Treeline toggle", "Treeline: suggestions on")
    says("Treeline toggle python", "Treeline: python off")
    says("Treeline toggle python", "Treeline: python on")
    says("Treeline nonsense", "there is no :Treeline nonsense, but explain, log, restart, statistics, toggle")
    t.eq({ "restart" }, vim.fn.getcompletion("Treeline r", "cmdline"), "completion")
    vim.cmd("Treeline log")
    assert(vim.api.nvim_buf_get_name(0):find("lsp.log"), vim.api.nvim_buf_get_name(0))
  end,
}
