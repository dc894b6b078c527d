return {
  run = function(t)
    t.open("killed.py", t.area("    return"))
    local old = vim.lsp.get_clients({ name = "treeline" })[1].id
    local function kill()
      local children = vim.api.nvim_get_proc_children(vim.fn.getpid())
      t.eq(1, #children, "the children of this process")
      vim.uv.kill(children[1], "sigkill")
    end
    local function another()
      local client = vim.lsp.get_clients({ name = "treeline", bufnr = 0 })[1]
      return client and client.initialized and client.id ~= old and client
    end
    kill()
    t.wait("another server", another)
    assert(t.notified():find("ended %(signal 9%); it is started again"), t.notified())
    t.wait("its engine", function()
      return t.command("statistics").status.state == "ready"
    end)
    t.type(" ")
    t.wait_for_ghost()
    for _ = 1, 3 do
      old = another().id
      kill()
      t.wait("its end", function()
        return #vim.lsp.get_clients({ name = "treeline", bufnr = 0 }) == 0
      end)
      if t.notified():find(":Treeline restart tries again", 1, true) then
        break
      end
      t.wait("another server", another)
    end
    t.wait("the last word", function()
      return t.notified():find(":Treeline restart tries again", 1, true)
    end)
    vim.cmd("Treeline restart")
    t.wait("another server after :Treeline restart", another)
  end,
}
