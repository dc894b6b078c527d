/** A folder for each test, programs in it, and waiting for what other processes do. */

import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import * as path from "node:path";
import { afterEach, beforeEach } from "node:test";

const PATH = process.env.PATH ?? "";

/** The folder of the test that runs. */
export let folder = "";

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "treeline-"));
});

afterEach(() => {
  process.env.PATH = PATH;
  rmSync(folder, { recursive: true, force: true });
});

/** Write a shell script into the folder of the test, and return its path. */
export function script(name: string, ...lines: string[]): string {
  const file = path.join(folder, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, ["#!/bin/sh", ...lines, ""].join("\n"));
  chmodSync(file, 0o755);
  return file;
}

/** Find programs in the test's folder `bin` first, then where the system has its own. */
export function pathOfTest(): void {
  process.env.PATH = `${path.join(folder, "bin")}:/usr/bin:/bin`;
}

export function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ");
  } catch {
    return false;
  }
}

export async function until(condition: () => boolean): Promise<void> {
  const began = performance.now();
  while (!condition()) {
    assert.ok(performance.now() - began < 30_000, "it did not happen");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
