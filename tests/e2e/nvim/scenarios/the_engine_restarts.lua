return {
  run = function(t)
    t.open("restart.py", t.area("    return"))
    local left, back = false, false
    vim.api.nvim_create_autocmd("User", {
      pattern = "TreelineStatus",
      callback = function()
        local ready = require("treeline.status").latest().state == "ready"
        left = left or not ready
        back = left and ready
      end,
    })
    vim.cmd("Treeline restart")
    t.wait("the engine to be ready anew", function()
      return back
    end)
    t.type(" ")
    t.wait_for_ghost()
  end,
}
