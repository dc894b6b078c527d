return {
  bare = true,
  run = function(t)
    require("treeline.config").options.cmd = vim.json.decode(vim.env.TREELINE_TEST_SERVER)
    vim.lsp.enable("treeline")
    t.open("native.py", t.area("    return "))
    t.eq("Treeline", require("treeline").status():match("^%a+"), "status")
    local client = vim.lsp.get_clients({ name = "treeline" })[1]
    local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
    local answer = client:request_sync(
      "textDocument/inlineCompletion",
      vim.tbl_extend("force", params, { context = { triggerKind = 1 } }),
      30000,
      0
    )
    assert(#answer.result.items > 0, vim.inspect(answer))
    if vim.lsp.inline_completion then
      vim.lsp.inline_completion.enable(true)
      t.type("<Esc>A")
      t.wait("the suggestion to be accepted", function()
        return vim.lsp.inline_completion.get()
      end)
      t.wait("the text", function()
        return vim.api.nvim_get_current_line() ~= "    return "
      end)
    end
  end,
}
