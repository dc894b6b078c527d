return {
  run = function(t)
    t.open("restart.py", { "def area(width, height):", "    return" })
    local states = {}
    vim.api.nvim_create_autocmd("User", {
      pattern = "TreelineStatus",
      callback = function()
        states[require("treeline.status").latest().state] = true
      end,
    })
    vim.cmd("Treeline restart")
    t.wait("the engine to be ready anew", function()
      return (states.starting or states.loading) and states.ready
    end)
    t.type(" ")
    t.wait_for_ghost()
  end,
}
