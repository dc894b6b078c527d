if vim.g.loaded_treeline then
  return
end
vim.g.loaded_treeline = true

vim.api.nvim_create_user_command("Treeline", function(arguments)
  require("treeline.commands").run(arguments.fargs)
end, {
  nargs = "+",
  desc = "Treeline: explain, log, restart, statistics, toggle",
  complete = function(lead, line)
    return require("treeline.commands").complete(lead, line)
  end,
})
