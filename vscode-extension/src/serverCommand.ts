/** How the language server is called, and how the command line that belongs to it is. */

import * as path from "node:path";

export interface ServerCommand {
  readonly command: string;
  readonly args: readonly string[];
  /** Where it was found, for a person. */
  readonly source: string;
}

/** Isolated (`-I`): neither the workspace's folder nor an inherited variable decides what is imported. */
const MODULE = ["-I", "-m", "lsp_server"] as const;

/** Return how `python` is made the server. */
export function moduleOf(python: string, source: string): ServerCommand {
  return { command: python, args: MODULE, source };
}

/** What the words of a setting may refer to. `folder`: the workspace's first, if it is trusted. */
export interface Surroundings {
  readonly home: string;
  readonly folder: string | undefined;
}

/** Return a command as it was set, with `~` and `${workspaceFolder}` filled in; a relative program is in the folder. */
export function filledIn(setting: readonly string[], { home, folder }: Surroundings): readonly string[] {
  const [command, ...args] = setting.map((word) =>
    word.replace(/^~(?=$|[\\/])/, () => home).replaceAll("${workspaceFolder}", (place) => folder ?? place),
  );
  if (command === undefined) return [];
  const relative = /[\\/]/.test(command) && !path.isAbsolute(command) && !command.startsWith("${");
  return [relative && folder !== undefined ? path.join(folder, command) : command, ...args];
}

/** Return how `treeline` is called in the installation that the server is of, or nothing if that cannot be told. */
export function commandLineOf(server: ServerCommand): { command: string; args: readonly string[] } | undefined {
  const at = server.args.lastIndexOf("lsp_server");
  if (at > 0 && server.args[at - 1] === "-m") {
    return { command: server.command, args: [...server.args.slice(0, at), "engine"] };
  }
  const name = path.basename(server.command);
  if (!/^treeline-lsp(\.exe)?$/.test(name)) return undefined;
  const command = path.join(path.dirname(server.command), name.replace("-lsp", ""));
  return { command: path.dirname(server.command) === "." ? name.replace("-lsp", "") : command, args: [] };
}
