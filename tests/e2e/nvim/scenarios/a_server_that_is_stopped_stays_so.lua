return {
  run = function(t)
    t.open("stopped.py", { "x = 1" })
    t.type("<Esc>")
    for _, force in ipairs({ true, false }) do
      local ended = false
      vim.api.nvim_create_autocmd("LspDetach", {
        once = true,
        callback = function()
          ended = true
        end,
      })
      vim.lsp.get_clients({ name = "treeline" })[1]:stop(force)
      t.wait("its end", function()
        return ended and #vim.lsp.get_clients({ name = "treeline" }) == 0
      end)
      t.type("x<Esc>") -- what its end brings about has been done by then
      t.eq("", t.notified(), "messages")
      vim.cmd("Treeline restart")
      t.wait("another server", function()
        local client = vim.lsp.get_clients({ name = "treeline" })[1]
        return client and client.initialized
      end)
    end
  end,
}
