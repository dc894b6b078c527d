return {
  run = function(t)
    t.open("health.py", { "x = 1" })
    t.type("<Esc>")
    vim.cmd("checkhealth treeline")
    local report = t.text()
    for _, line in ipairs({ "server: ", "version: treeline%-lsp %d", "positions in utf", "engine: ready, model" }) do
      assert(report:find(line), line .. " is not in:\n" .. report)
    end
    assert(not report:find("ERROR"), report)
    vim.cmd("bwipeout")
    require("treeline.config").options.cmd = { "/nonexistent/treeline-lsp" }
    vim.cmd("checkhealth treeline")
    assert(t.text():find("ERROR it does not run"), t.text())
  end,
}
