/** The documents that suggestions are for. */

export const SELECTOR = [
  { scheme: "file" },
  { scheme: "untitled" },
  { scheme: "vscode-notebook-cell", notebook: "*" },
] as const;
