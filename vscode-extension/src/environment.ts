/** An environment of Python of the extension's own, with the server that came with the extension. */

import { existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from "node:fs/promises";
import * as path from "node:path";
import { isCancelled, lastWords, run } from "./process.ts";
import { isStandIn } from "./standIn.ts";

const OLDEST = "3.11";
const MARKER = "server.txt"; // names the environment that counts, and its wheel: written last
const USED = "used-by-"; // and a process: a file in an environment
const FOLDER = /^server(?:-.*-(\d+)-\w+)?$/; // of a version, by a process

export interface Progress {
  readonly signal: AbortSignal;
  readonly report: (line: string) => void;
}

export class Environment {
  readonly #storage: string;
  readonly #wheels: string;
  readonly #ended = new AbortController();
  #installing: Promise<void> | undefined;

  /** `storage`: a folder of the extension's own. `wheels`: the folder that holds the server's wheel. */
  constructor(storage: string, wheels: string) {
    this.#storage = storage;
    this.#wheels = wheels;
  }

  /** Its Python, or nothing if it has not been installed, or not to the end. */
  get python(): string | undefined {
    const { folder } = this.#marked();
    const python = folder && pythonIn(path.join(this.#storage, folder));
    return python && existsSync(python) ? python : undefined;
  }

  /** The wheel that was installed, by its name. */
  get installed(): string | undefined {
    return this.python && this.#marked().wheel;
  }

  /** Return the wheel that came with the extension. */
  async wheel(): Promise<string> {
    const names = existsSync(this.#wheels) ? await readdir(this.#wheels) : [];
    const wheel = names.find((name) => name.endsWith(".whl"));
    if (wheel === undefined) throw new Error("this build of the extension carries no server: install Treeline by hand");
    return path.join(this.#wheels, wheel);
  }

  /** Whether another wheel was installed than the one that came with the extension. */
  async outdated(): Promise<boolean> {
    const wheel = await this.wheel().catch(() => undefined);
    return this.installed !== undefined && wheel !== undefined && this.installed !== path.basename(wheel);
  }

  /** Make the environment anew, beside the one that is in use. If that fails or is cancelled, nothing of it is left. */
  async install(progress: Progress): Promise<void> {
    if (this.#installing) throw new Error("the server is being installed already");
    const signal = AbortSignal.any([progress.signal, this.#ended.signal]);
    this.#installing = this.#install({ ...progress, signal });
    try {
      await this.#installing;
    } finally {
      this.#installing = undefined;
    }
  }

  /** Say that this window runs what counts now: other windows leave it there. */
  async use(): Promise<void> {
    const { folder } = this.#marked();
    if (folder) await writeFile(path.join(this.#storage, folder, `${USED}${process.pid}`), "").catch(() => undefined);
  }

  /** Remove environments that do not count any more and that no other window runs, as far as that is possible. */
  async tidy(): Promise<void> {
    if (this.#installing) return;
    for (const name of await readdir(this.#storage).catch(() => [])) {
      const found = FOLDER.exec(name);
      if (!found || name === this.#marked().folder) continue;
      const maker = Number(found[1]);
      const inside = await readdir(path.join(this.#storage, name)).catch(() => []);
      const users = inside.filter((file) => file.startsWith(USED)).map((file) => Number(file.slice(USED.length)));
      if ([maker, ...users].some((pid) => pid && pid !== process.pid && alive(pid))) continue;
      await remove(path.join(this.#storage, name)).catch(() => undefined);
    }
  }

  /** End an installation that is under way. */
  async stop(): Promise<void> {
    this.#ended.abort();
    await this.#installing?.catch(() => undefined);
  }

  #marked(): { folder?: string | undefined; wheel?: string | undefined } {
    const marker = path.join(this.#storage, MARKER);
    if (!existsSync(marker)) return {};
    const [folder, wheel] = readFileSync(marker, "utf8").split("\n");
    return { folder, wheel };
  }

  async #install(progress: Progress): Promise<void> {
    const wheel = await this.wheel();
    const [, version = ""] = path.basename(wheel).split("-");
    await mkdir(this.#storage, { recursive: true });
    const folder = await mkdtemp(path.join(this.#storage, `server-${version}-${process.pid}-`));
    try {
      await fill(folder, [`${wheel}[lsp,server]`, ...constraints(this.#wheels)], progress);
      const draft = path.join(folder, MARKER);
      await writeFile(draft, `${path.basename(folder)}\n${path.basename(wheel)}\n`);
      await rename(draft, path.join(this.#storage, MARKER));
    } catch (error) {
      await remove(folder);
      throw error;
    }
  }
}

function remove(folder: string): Promise<void> {
  return rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
}

function alive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function pythonIn(folder: string): string {
  return process.platform === "win32" ? path.join(folder, "Scripts", "python.exe") : path.join(folder, "bin", "python");
}

/** Return the arguments by which packages get the versions that the server was tested with. */
function constraints(wheels: string): readonly string[] {
  const file = path.join(wheels, "constraints.txt");
  return existsSync(file) ? ["--constraint", file] : [];
}

/** Make an environment with uv where there is uv, else, or where that fails, with Python's own tools. */
async function fill(folder: string, packages: readonly string[], progress: Progress): Promise<void> {
  let failure: unknown;
  if (await answers("uv", ["--version"])) {
    try {
      await step("uv", ["venv", "--allow-existing", "--python", `>=${OLDEST}`, folder], progress);
      await step("uv", ["pip", "install", "--python", pythonIn(folder), ...packages], progress);
      return;
    } catch (error) {
      if (isCancelled(error)) throw error;
      failure = error;
      progress.report("uv has failed, which knows nothing of pip's settings: trying pip");
    }
  }
  const python = await newEnoughPython().catch((error: unknown) => {
    throw failure ?? error;
  });
  await step(python, ["-m", "venv", "--clear", folder], progress);
  const pip = ["-m", "pip", "--disable-pip-version-check", "--no-input", "install"];
  await step(pythonIn(folder), [...pip, ...packages], progress);
}

/** Return a Python on PATH that Treeline runs on. */
export async function newEnoughPython(names: readonly string[] = pythonNames()): Promise<string> {
  const check = `import sys, venv, ensurepip; sys.exit(sys.version_info < (${OLDEST.replace(".", ", ")}))`;
  for (const name of names) if (!(await isStandIn(name)) && (await answers(name, ["-c", check]))) return name;
  throw new Error(`no Python ${OLDEST} or newer with its modules venv and ensurepip is on PATH: install one, then try again`);
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
  const result = await run(command, args, { signal: progress.signal, onLine: progress.report });
  if (result.status !== 0) throw new Error(lastWords(command, result));
}
