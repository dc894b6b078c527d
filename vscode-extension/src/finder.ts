/** Finds the language server on this machine. */

import { run } from "./process.ts";
import { moduleOf, type ServerCommand } from "./serverCommand.ts";
import { isStandIn } from "./standIn.ts";
import { versionIn } from "./version.ts";

const PROBE_MS = 30_000; // the first start after an installation compiles Python's files

export const SETTING = "the setting treeline.serverCommand";
export const OWN = "Treeline's own environment";
export const INTERPRETER = "the Python extension's interpreter";

/** Where a server may be. What is undefined is not looked at. */
export interface Places {
  /** The setting: where it is given, nothing else counts. */
  readonly setting: readonly string[];
  /** Python of the environment that this extension has made. */
  readonly ownPython?: string | undefined;
  /** Asks for the interpreter that is chosen in the Python extension. */
  readonly chosenPython?: () => Promise<string | undefined>;
}

export interface Found {
  readonly server: ServerCommand;
  readonly version: string;
}

export interface Missing {
  /** A line for each place: what was tried there, and what came of it. */
  readonly tried: readonly string[];
}

/** Return the places to look at, the first that answers being the one. The Python extension is asked only in its turn. */
export async function* candidates(places: Places, platform: NodeJS.Platform = process.platform): AsyncGenerator<ServerCommand> {
  const [command, ...args] = places.setting;
  if (command !== undefined) {
    yield { command, args, source: SETTING };
    return;
  }
  if (places.ownPython) yield moduleOf(places.ownPython, OWN);
  const chosenPython = await places.chosenPython?.();
  if (chosenPython) yield moduleOf(chosenPython, INTERPRETER);
  yield { command: "treeline-lsp", args: [], source: "PATH" };
  for (const python of platform === "win32" ? ["py", "python"] : ["python3", "python"]) yield moduleOf(python, "PATH");
}

/** Ask each place for its version, and return the first that gives one. */
export async function find(places: Places, signal?: AbortSignal): Promise<Found | Missing> {
  const tried: string[] = [];
  for await (const server of candidates(places)) {
    const answer = await probe(server, signal);
    if (answer.version !== undefined) return { server, version: answer.version };
    tried.push(`${[server.command, ...server.args].join(" ")} (${server.source}): ${answer.reason}`);
    if (signal?.aborted) break;
  }
  return { tried };
}

type Answer = { version: string } | { version: undefined; reason: string };

async function probe(server: ServerCommand, signal: AbortSignal | undefined): Promise<Answer> {
  try {
    if (await isStandIn(server.command)) return { version: undefined, reason: "only macOS's stand-in for Python" };
    const result = await run(server.command, [...server.args, "--version"], { timeoutMs: PROBE_MS, signal });
    const version = versionIn(result.stdout);
    if (version !== undefined) return { version };
    const said = result.stderr.split("\n").findLast((line) => line.trim());
    return { version, reason: said ?? "it did not say that it is Treeline's server" };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return { version: undefined, reason: code === "ENOENT" ? "not there" : message };
  }
}
