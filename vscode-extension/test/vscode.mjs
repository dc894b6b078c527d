// Lets tests import modules that import `vscode`: the editor's own module exists in the editor only.
import { registerHooks } from "node:module";

const stub = new URL("./vscode.ts", import.meta.url).href;
registerHooks({
  resolve: (specifier, context, next) =>
    specifier === "vscode" ? { url: stub, format: "module-typescript", shortCircuit: true } : next(specifier, context),
});
