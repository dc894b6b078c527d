/** Finds the language server on this machine. */

import { run } from "./process.ts";
import { moduleOf, type ServerCommand } from "./serverCommand.ts";
import { versionIn } from "./version.ts";

const PROBE_MS = 30_000; // the first start after an installation compiles Python's files

/** Where a server may be. What is undefined is not looked at. */
export interface Places {
  /** The setting: where it is given, nothing else counts. */
  readonly setting: readonly string[];
  /** Python of the environment that this extension has made. */
  readonly ownPython?: string | undefined;
  /** The interpreter that is chosen in the Python extension. */
  readonly chosenPython?: string | undefined;
}

export interface Found {
  readonly server: ServerCommand;
  readonly version: string;
}

export interface Missing {
  /** A line for each place: what was tried there, and what came of it. */
  readonly tried: readonly string[];
}

/** Return the places to look at, the first that answers being the one. */
export function candidates(places: Places, platform: NodeJS.Platform = process.platform): readonly ServerCommand[] {
  const [command, ...args] = places.setting;
  if (command !== undefined) return [{ command, args, source: "the setting treeline.serverCommand" }];
  const found: ServerCommand[] = [];
  if (places.ownPython) found.push(moduleOf(places.ownPython, "Treeline's own environment"));
  if (places.chosenPython) found.push(moduleOf(places.chosenPython, "the Python extension's interpreter"));
  found.push({ command: "treeline-lsp", args: [], source: "PATH" });
  for (const python of platform === "win32" ? ["py", "python"] : ["python3", "python"]) {
    found.push(moduleOf(python, "PATH"));
  }
  return found;
}

/** Ask each place for its version, and return the first that gives one. */
export async function find(places: Places): Promise<Found | Missing> {
  const tried: string[] = [];
  for (const server of candidates(places)) {
    const answer = await probe(server);
    if (answer.version !== undefined) return { server, version: answer.version };
    tried.push(`${[server.command, ...server.args].join(" ")} (${server.source}): ${answer.reason}`);
  }
  return { tried };
}

async function probe(server: ServerCommand): Promise<{ version: string } | { version: undefined; reason: string }> {
  try {
    const result = await run(server.command, [...server.args, "--version"], { timeoutMs: PROBE_MS });
    const version = versionIn(result.stdout);
    if (version !== undefined) return { version };
    const said = result.stderr.split("\n").findLast((line) => line.trim());
    return { version, reason: said ?? "it did not say that it is Treeline's server" };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return { version: undefined, reason: code === "ENOENT" ? "not there" : message };
  }
}
