/** Runs a program to its end. */

import { spawn } from "node:child_process";

export interface Result {
  /** The exit status, or null if a signal ended it. */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Conditions {
  /** Ends the program, and with it the programs that it has started. */
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
  readonly environment?: NodeJS.ProcessEnv;
  /** Takes each line of either stream as it comes. */
  readonly onLine?: (line: string) => void;
}

/** Run `command` and collect what it prints. Rejects if it cannot be started, is aborted or takes too long. */
export function run(command: string, args: readonly string[], conditions: Conditions = {}): Promise<Result> {
  return new Promise((resolve, reject) => {
    const { signal, timeoutMs, onLine } = conditions;
    signal?.throwIfAborted();
    const windows = process.platform === "win32";
    const child = spawn(command, args, {
      env: conditions.environment ?? process.env,
      stdio: ["ignore", "pipe", "pipe"],
      detached: !windows, // a group of its own, so that all of it can be ended
      windowsHide: true,
    });
    const output = { stdout: "", stderr: "" };
    const end = (reason: Error): void => {
      if (child.pid !== undefined && !windows) process.kill(-child.pid, "SIGTERM");
      else child.kill();
      reject(reason);
    };
    const abort = (): void => end(new Error("cancelled"));
    const timer = timeoutMs && setTimeout(() => end(new Error(`no answer within ${timeoutMs / 1000} s`)), timeoutMs);
    signal?.addEventListener("abort", abort, { once: true });
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8").on("data", (text: string) => {
        output[name] += text;
        for (const each of text.split(/\r?\n/)) if (each.trim()) onLine?.(each.trim());
      });
    }
    const settle = (): void => {
      signal?.removeEventListener("abort", abort);
      if (timer) clearTimeout(timer);
    };
    child.on("error", (error) => {
      settle();
      reject(error);
    });
    child.on("close", (status) => {
      settle();
      resolve({ status, ...output });
    });
  });
}
