/** Runs a program to its end. */

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import * as path from "node:path";
import { createInterface } from "node:readline";

export interface Result {
  /** The exit status, or null if a signal ended it. */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Conditions {
  /** Ends the program, and with it the programs that it has started. */
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number;
  readonly environment?: NodeJS.ProcessEnv;
  /** Takes each line of either stream as it comes. */
  readonly onLine?: (line: string) => void;
}

const GRACE_MS = 3000; // between the request to end and the end by force
const PYTHONS_OWN = ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"]; // they change what a Python imports

/** Return the folder that programs are started in: never the workspace's, where one of the same name may lie. */
export function startFolder(): string {
  return existsSync(homedir()) ? homedir() : path.dirname(process.execPath);
}

/** Return the environment that programs get. */
export function startEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !PYTHONS_OWN.includes(name.toUpperCase())));
}

/** Return the last line that a program has written, of its complaints if there are any; else its status. */
export function lastWords(command: string, { status, stdout, stderr }: Result): string {
  const lines = [...stdout.split("\n"), ...stderr.split("\n")];
  return lines.findLast((line) => line.trim())?.trim() ?? `${command} ended with status ${String(status)}`;
}

/** Whether an error says that somebody has cancelled what was done. */
export function isCancelled(error: unknown): boolean {
  return error instanceof Error && error.name === "AbortError";
}

function cancelled(): Error {
  return Object.assign(new Error("cancelled"), { name: "AbortError" });
}

/** Run `command` and collect what it prints. Rejects if it cannot be started, is aborted or takes too long. */
export function run(command: string, args: readonly string[], conditions: Conditions = {}): Promise<Result> {
  return new Promise((resolve, reject) => {
    const { signal, timeoutMs, onLine } = conditions;
    if (signal?.aborted) throw cancelled();
    const windows = process.platform === "win32";
    const child = spawn(command, args, {
      cwd: startFolder(),
      env: conditions.environment ?? startEnvironment(),
      stdio: ["ignore", "pipe", "pipe"],
      detached: !windows, // a group of its own, so that all of it can be ended
      windowsHide: true,
    });
    const output = { stdout: "", stderr: "" };
    let failure: Error | undefined;
    let timer: NodeJS.Timeout | undefined;
    const settle = (): void => {
      signal?.removeEventListener("abort", abort);
      clearTimeout(timer);
    };
    const end = (reason: Error): void => {
      settle();
      failure = reason;
      kill(child.pid, "SIGTERM");
      timer = setTimeout(() => {
        kill(child.pid, "SIGKILL");
        reject(reason); // without waiting: whoever has left the group may hold the streams
        child.stdout.destroy();
        child.stderr.destroy();
      }, GRACE_MS);
    };
    const abort = (): void => end(cancelled());
    if (timeoutMs) timer = setTimeout(() => end(new Error(`no answer within ${timeoutMs / 1000} s`)), timeoutMs);
    signal?.addEventListener("abort", abort, { once: true });
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8").on("data", (text: string) => (output[name] += text));
      if (onLine) createInterface({ input: child[name], crlfDelay: Infinity }).on("line", (line) => line.trim() && onLine(line.trim()));
    }
    child.on("error", (error) => {
      settle();
      reject(error);
    });
    child.on("close", (status) => {
      settle();
      if (failure) reject(failure);
      else resolve({ status, ...output });
    });
  });
}

/** Send a signal to a program, and to those that it has started, as far as they are there. */
function kill(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(process.platform === "win32" ? pid : -pid, signal);
  } catch {
    // it has ended by itself
  }
}
