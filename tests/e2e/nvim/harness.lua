-- Runs one scenario in this Neovim: types as a person does, waits for conditions, and exits 0 if all of it held.
local M = {}

local LIMIT_MS = 120000 -- for one condition; the engine may be loading on a busy machine

---@type thread
local running
local reports = {}

local function finish(problem)
  if problem then
    io.stderr:write(problem .. "\n")
    for _, line in ipairs(reports) do
      io.stderr:write("notified: " .. line .. "\n")
    end
  end
  io.stderr:write(problem and "FAILED\n" or "PASSED\n")
  vim.cmd(problem and "cquit! 1" or "qall!")
end

local function resume()
  local ok, problem = coroutine.resume(running)
  if not ok then
    finish(debug.traceback(running, tostring(problem)))
  elseif coroutine.status(running) == "dead" then
    finish()
  end
end

--- Wait until `condition` returns something; return it. Neovim goes on meanwhile.
function M.wait(what, condition)
  local began = vim.uv.now()
  while true do
    local found = condition()
    if found then
      return found
    elseif vim.uv.now() - began > LIMIT_MS then
      error(("waited in vain for %s; the last line was %q"):format(what, vim.api.nvim_get_current_line()), 2)
    end
    vim.defer_fn(resume, 5)
    coroutine.yield()
  end
end

--- Type keys, and wait until Neovim has taken them.
function M.type(keys)
  local done = false
  vim.keymap.set({ "n", "i" }, "<F12>", function()
    done = true
  end)
  vim.api.nvim_input(keys .. "<F12>")
  M.wait("the keys " .. keys, function()
    return done
  end)
end

function M.eq(expected, actual, what)
  if not vim.deep_equal(expected, actual) then
    error(("%s: expected %s, got %s"):format(what or "value", vim.inspect(expected), vim.inspect(actual)), 2)
  end
end

function M.text()
  return table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), "\n")
end

--- All marks that are drawn, as Neovim holds them.
function M.marks()
  local namespace = vim.api.nvim_get_namespaces().treeline
  return vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, { details = true })
end

--- What is drawn as ghost text: its lines joined, or nil if there is none.
function M.ghost()
  local first, below = "", {}
  for _, mark in ipairs(M.marks()) do
    for _, chunk in ipairs(mark[4].virt_text_pos == "inline" and mark[4].virt_text or {}) do
      M.eq("TreelineSuggestion", chunk[2], "highlight")
      first = first .. chunk[1]
    end
    for _, line in ipairs(mark[4].virt_lines or {}) do
      below[#below + 1] = line[1][1]
    end
  end
  local all = table.concat({ first, unpack(below) }, "\n")
  return all ~= "" and all or nil
end

function M.wait_for_ghost()
  return M.wait("ghost text", M.ghost)
end

--- What the server answers to a command.
function M.command(name, ...)
  local client = vim.lsp.get_clients({ name = "treeline" })[1]
  local answer
  local params = { command = "treeline.server." .. name, arguments = { ... } }
  client:request("workspace/executeCommand", params, function(err, result)
    answer = { err = err, result = result }
  end)
  M.wait("the answer to " .. name, function()
    return answer
  end)
  assert(not answer.err, vim.inspect(answer.err))
  return answer.result
end

function M.requests()
  return M.command("statistics").requests
end

--- The requests that a pass of the model answered.
function M.passes()
  return M.requests().answered or 0
end

--- Lines that end with `last`, in a function whose body stands above: any model goes on from there.
function M.area(last)
  return { "def area(width, height):", "    return width * height", "", "", "def size(width, height):", last }
end

--- Open a file of the workspace with `lines` and the cursor at the end of them, inserting, once the engine is ready.
function M.open(name, lines)
  vim.fn.writefile(lines, name)
  vim.cmd.edit(name)
  M.wait("the language server", function()
    return #vim.lsp.get_clients({ name = "treeline", bufnr = 0 }) > 0
  end)
  M.wait("the engine", function()
    local status = require("treeline.status").latest()
    return status and status.state == "ready"
  end)
  M.type("GA")
end

function M.notified()
  return table.concat(reports, "\n")
end

function M.run(path)
  vim.notify = function(message)
    reports[#reports + 1] = message
  end
  local encoding, make = vim.env.TREELINE_TEST_ENCODING, vim.lsp.protocol.make_client_capabilities
  vim.lsp.protocol.make_client_capabilities = function() -- as a user whose other servers know one encoding only
    local all = make()
    all.general.positionEncodings = encoding and { encoding } or all.general.positionEncodings
    return all
  end
  running = coroutine.create(function()
    local scenario = assert(loadfile(path))()
    if not scenario.bare then
      local given = {
        cmd = vim.json.decode(vim.env.TREELINE_TEST_SERVER),
        settings = { deadlineMs = 60000 }, -- on a busy machine too, suggestions are whole
      }
      require("treeline").setup(vim.tbl_extend("force", given, scenario.setup or {}))
    end
    scenario.run(M)
  end)
  vim.schedule(resume)
end

return M
