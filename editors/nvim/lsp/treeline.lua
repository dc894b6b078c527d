-- For `vim.lsp.enable("treeline")`, which Neovim 0.11 and newer have. Neovim 0.12 then draws suggestions by itself
-- (`vim.lsp.inline_completion`); before that, use `require("treeline").setup()` instead.
return require("treeline.server").native_config()
