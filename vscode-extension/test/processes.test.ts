/** Programs that are run, servers that are found, environments that are made: with real processes. */

import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import * as path from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { Environment, newEnoughPython } from "../src/environment.ts";
import { candidates, find } from "../src/finder.ts";
import { run } from "../src/process.ts";

const NODE = process.execPath;
const PATH = process.env.PATH ?? "";
let folder = "";

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "treeline-"));
});

afterEach(() => {
  process.env.PATH = PATH;
  rmSync(folder, { recursive: true, force: true });
});

/** Write a shell script into the folder of the test, and return its path. */
function script(name: string, ...lines: string[]): string {
  const file = path.join(folder, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, ["#!/bin/sh", ...lines, ""].join("\n"));
  chmodSync(file, 0o755);
  return file;
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ");
  } catch {
    return false;
  }
}

async function until(condition: () => boolean): Promise<void> {
  const began = performance.now();
  while (!condition()) {
    assert.ok(performance.now() - began < 30_000, "it did not happen");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test("a program's output and status are collected", async () => {
  const lines: string[] = [];
  const onLine = (line: string) => void lines.push(line);
  const result = await run("sh", ["-c", "echo one; echo two >&2; exit 3"], { onLine });
  assert.deepEqual(result, { status: 3, stdout: "one\n", stderr: "two\n" });
  assert.deepEqual(lines.sort(), ["one", "two"]);
});

test("a program that is not there is an error", async () => {
  await assert.rejects(run(path.join(folder, "nothing"), []), { code: "ENOENT" });
});

test("a program that says nothing for too long is ended", async () => {
  await assert.rejects(run("sleep", ["60"], { timeoutMs: 50 }), /no answer within 0.05 s/);
});

test("cancelling ends a program and what it has started", async () => {
  const abort = new AbortController();
  const file = path.join(folder, "pid");
  const running = run("sh", ["-c", `sleep 60 & echo $! > ${file}; wait`], { signal: abort.signal });
  await until(() => existsSync(file) && readFileSync(file, "utf8").endsWith("\n"));
  const child = Number(readFileSync(file, "utf8"));
  assert.ok(alive(child));
  abort.abort();
  await assert.rejects(running, /cancelled/);
  await until(() => !alive(child));
  await assert.rejects(run("true", [], { signal: abort.signal }), { name: "AbortError" });
});

test("places are tried in their order, the setting alone where there is one", () => {
  const commands = (list: ReturnType<typeof candidates>) => list.map((each) => each.command);
  const places = { setting: [], ownPython: "/own/python", chosenPython: "/chosen/python" };
  assert.deepEqual(commands(candidates(places, "linux")), [
    "/own/python",
    "/chosen/python",
    "treeline-lsp",
    "python3",
    "python",
  ]);
  assert.deepEqual(commands(candidates({ setting: [] }, "win32")), ["treeline-lsp", "py", "python"]);
  const [only, ...others] = candidates({ ...places, setting: ["/set/server", "--log-level", "debug"] });
  assert.deepEqual([only?.command, only?.args, others], ["/set/server", ["--log-level", "debug"], []]);
});

test("the first place that answers is taken", async () => {
  const own = script("own", "echo no module >&2; exit 1");
  const chosen = script("chosen", '[ "$*" = "-I -m lsp_server --version" ] && echo "treeline-lsp 0.1.0"');
  const found = await find({ setting: [], ownPython: own, chosenPython: chosen });
  assert.ok("server" in found);
  assert.equal(found.server.command, chosen);
  assert.equal(found.version, "0.1.0");
});

test("what was tried is told, and a program of another name is no server", async () => {
  const other = script("treeline-lsp", 'echo "treeline 1.0.1"');
  const found = await find({ setting: [other] });
  assert.ok("tried" in found);
  assert.deepEqual(found.tried, [
    `${other} (the setting treeline.serverCommand): it did not say that it is Treeline's server`,
  ]);
  process.env.PATH = folder;
  const nowhere = await find({ setting: [] });
  assert.ok("tried" in nowhere);
  assert.match(nowhere.tried.at(-1) ?? "", /^python -I -m lsp_server \(PATH\): not there$/);
});

function withWheel(): Environment {
  const wheels = path.join(folder, "wheels");
  mkdirSync(wheels);
  writeFileSync(path.join(wheels, "treeline-0.1.0-py3-none-any.whl"), "");
  return new Environment(path.join(folder, "storage"), wheels);
}

const progress = (signal = new AbortController().signal) => {
  const lines: string[] = [];
  return { lines, signal, report: (line: string) => void lines.push(line) };
};

/** Stands for Python: knows `-c`, makes an environment with `-m venv`, and installs with what `pip` says. */
function python(pip: string): void {
  script("bin/python3", 'if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi', `case "$*" in *pip*) ${pip};; esac`);
  process.env.PATH = `${path.join(folder, "bin")}:/usr/bin:/bin`;
}

test("without uv, an environment is made by Python's own tools", async () => {
  python('echo "Collecting torch"');
  const environment = withWheel();
  assert.equal(environment.python, undefined);
  const told = progress();
  await environment.install(told);
  const made = path.join(folder, "storage", "server", "bin", "python");
  assert.equal(environment.python, made);
  assert.equal(await environment.installed(), "treeline-0.1.0-py3-none-any.whl");
  assert.ok(told.lines.includes("Collecting torch"));
  const wheel = path.join(folder, "wheels", "treeline-0.1.0-py3-none-any.whl");
  const command = `${made} -m pip --disable-pip-version-check --no-input install ${wheel}[lsp,server]`;
  assert.ok(told.lines.includes(command), told.lines.join("\n"));
});

test("with uv, uv makes it", async () => {
  script("bin/uv", 'if [ "$1" = venv ]; then mkdir -p "$5/bin" && : > "$5/bin/python"; fi');
  process.env.PATH = `${path.join(folder, "bin")}:/usr/bin:/bin`;
  const environment = withWheel();
  const told = progress();
  await environment.install(told);
  assert.ok(environment.python);
  assert.deepEqual(told.lines.map((line) => line.split(" ").slice(0, 2).join(" ")), ["uv venv", "uv pip"]);
});

test("an installation that fails leaves nothing and says why", async () => {
  python('echo "ERROR: no space left" >&2; exit 1');
  const environment = withWheel();
  await assert.rejects(environment.install(progress()), /no space left/);
  assert.equal(environment.python, undefined);
  assert.ok(!existsSync(path.join(folder, "storage", "server")));
});

test("an installation that is cancelled leaves nothing", async () => {
  python(`: > ${path.join(folder, "began")}; sleep 60`);
  const environment = withWheel();
  const abort = new AbortController();
  const installing = environment.install(progress(abort.signal));
  await until(() => existsSync(path.join(folder, "began")));
  abort.abort();
  await assert.rejects(installing, /cancelled/);
  assert.ok(!existsSync(path.join(folder, "storage", "server")));
});

test("without a wheel or a Python there is a message", async () => {
  const environment = new Environment(path.join(folder, "storage"), path.join(folder, "none"));
  await assert.rejects(environment.install(progress()), /carries no server/);
  await assert.rejects(newEnoughPython([script("old", "exit 1")]), /no Python 3.11 or newer/);
  assert.equal(await newEnoughPython([script("old", "exit 1"), NODE, script("good", "exit 0")]), path.join(folder, "good"));
});
