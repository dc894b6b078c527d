-- For a Neovim without the plug-in: its own client, one request by hand, and what the fallback offers to omnifunc.
local function check(condition, what)
  if not condition then
    io.stderr:write("FAILED: " .. what .. "\n")
    vim.cmd("cquit! 1")
  end
end

local lines = {
  "def area(width, height):",
  '    x = "Ä𝔘"; return width * height',
  "",
  "",
  "def größe(width, height):",
  '    x = "Ä𝔘"; return ',
}
vim.fn.writefile(lines, "raw.py")
vim.cmd("edit raw.py")
vim.api.nvim_win_set_cursor(0, { #lines, #lines[#lines] })
local buf, state = vim.api.nvim_get_current_buf(), nil
local id = vim.lsp.start_client({
  name = "treeline",
  cmd = vim.json.decode(vim.env.TREELINE_TEST_SERVER),
  root_dir = vim.fn.getcwd(),
  init_options = { completionFallback = true },
  handlers = {
    ["treeline/status"] = function(_, status)
      state = status.state
    end,
  },
})
check(vim.lsp.buf_attach_client(buf, id), "the server does not start")
check(vim.wait(120000, function()
  return state == "ready"
end, 10), "the engine is not ready: " .. tostring(state))

local client = vim.lsp.get_client_by_id(id)
check(client.offset_encoding == "utf-16", client.offset_encoding)
local units = vim.fn.strchars(lines[#lines]) + 1 -- one character lies outside the Basic Multilingual Plane
local answer = client.request_sync("textDocument/inlineCompletion", {
  textDocument = { uri = vim.uri_from_bufnr(buf) },
  position = { line = #lines - 1, character = units },
  context = { triggerKind = 1 },
}, 60000, buf)
check(answer and not answer.err and #answer.result.items > 0, vim.inspect(answer))
local item = answer.result.items[1]
check(item.range["end"].character == units, vim.inspect(item))
check(type(item.insertText) == "string" and item.insertText ~= "", vim.inspect(item))

vim.bo.omnifunc = "v:lua.vim.lsp.omnifunc"
local before = table.concat(lines, "\n")
vim.api.nvim_feedkeys(vim.api.nvim_replace_termcodes("A<C-x><C-o>", true, false, true), "n", false)
local finish = function()
  local text = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), "\n")
  if text ~= before then
    check(vim.startswith(text, before), "the text before the cursor has changed:\n" .. text)
    io.stderr:write("PASSED\n")
    vim.cmd("qall!")
  end
end
local timer = vim.loop.new_timer()
timer:start(10, 10, vim.schedule_wrap(finish))
vim.defer_fn(function()
  check(false, "omnifunc has inserted nothing within a minute")
end, 60000)
