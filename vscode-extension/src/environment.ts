/** An environment of Python of the extension's own, with the server that came with the extension. */

import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import * as path from "node:path";
import { run } from "./process.ts";

const OLDEST = "3.11";
const MARKER = "installed.txt"; // written last: without it the environment is not whole

export interface Progress {
  readonly signal: AbortSignal;
  readonly report: (line: string) => void;
}

export class Environment {
  readonly #folder: string;
  readonly #wheels: string;

  /** `storage`: a folder of the extension's own. `wheels`: the folder that holds the server's wheel. */
  constructor(storage: string, wheels: string) {
    this.#folder = path.join(storage, "server");
    this.#wheels = wheels;
  }

  /** Its Python, or nothing if it has not been installed, or not to the end. */
  get python(): string | undefined {
    return existsSync(path.join(this.#folder, MARKER)) ? pythonIn(this.#folder) : undefined;
  }

  /** Return the wheel that was installed, by its name. */
  async installed(): Promise<string | undefined> {
    return this.python && (await readFile(path.join(this.#folder, MARKER), "utf8")).trim();
  }

  /** Return the wheel that came with the extension. */
  async wheel(): Promise<string> {
    const names = existsSync(this.#wheels) ? await readdir(this.#wheels) : [];
    const wheel = names.find((name) => name.endsWith(".whl"));
    if (wheel === undefined) throw new Error("this build of the extension carries no server: install Treeline by hand");
    return path.join(this.#wheels, wheel);
  }

  /** Make the environment anew. If that fails or is cancelled, nothing of it is left. */
  async install(progress: Progress): Promise<void> {
    const wheel = await this.wheel();
    await rm(this.#folder, { recursive: true, force: true });
    await mkdir(this.#folder, { recursive: true });
    try {
      for (const [command, ...args] of await steps(this.#folder, `${wheel}[lsp,server]`)) {
        await step(command, args, progress);
      }
      await writeFile(path.join(this.#folder, MARKER), `${path.basename(wheel)}\n`);
    } catch (error) {
      await rm(this.#folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
      throw error;
    }
  }
}

function pythonIn(folder: string): string {
  return process.platform === "win32" ? path.join(folder, "Scripts", "python.exe") : path.join(folder, "bin", "python");
}

type Command = readonly [string, ...string[]];

/** Return the commands that make an environment: uv's where there is uv, else those of Python itself. */
async function steps(folder: string, requirement: string): Promise<readonly Command[]> {
  const python = pythonIn(folder);
  if (await answers("uv", ["--version"])) {
    return [
      ["uv", "venv", "--allow-existing", "--python", `>=${OLDEST}`, folder],
      ["uv", "pip", "install", "--python", python, requirement],
    ];
  }
  return [
    [await newEnoughPython(), "-m", "venv", folder],
    [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", requirement],
  ];
}

/** Return a Python on PATH that Treeline runs on. */
export async function newEnoughPython(names: readonly string[] = pythonNames()): Promise<string> {
  const check = `import sys, venv; sys.exit(sys.version_info < (${OLDEST.replace(".", ", ")}))`;
  for (const name of names) if (await answers(name, ["-c", check])) return name;
  throw new Error(`no Python ${OLDEST} or newer with its venv module is on PATH: install one, then try again`);
}

function pythonNames(): readonly string[] {
  return process.platform === "win32" ? ["py", "python"] : ["python3", "python3.13", "python3.12", "python3.11", "python"];
}

async function answers(command: string, args: readonly string[]): Promise<boolean> {
  try {
    return (await run(command, args, { timeoutMs: 20_000 })).status === 0;
  } catch {
    return false; // it is not there
  }
}

async function step(command: string, args: readonly string[], progress: Progress): Promise<void> {
  progress.report([command, ...args].join(" "));
  const { status, stderr } = await run(command, args, { signal: progress.signal, onLine: progress.report });
  if (status !== 0) throw new Error(stderr.trim().split("\n").at(-1) ?? `${command} ended with status ${status}`);
}
