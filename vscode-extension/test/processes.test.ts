/** Programs that are run, and servers that are found: with real processes. */

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, realpathSync } from "node:fs";
import { homedir } from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { candidates, find, type Places } from "../src/finder.ts";
import { run } from "../src/process.ts";
import { filledIn } from "../src/serverCommand.ts";
import { isStandIn } from "../src/standIn.ts";
import { alive, folder, pathOfTest, script, until } from "./scratch.ts";

test("a program's output and status are collected", async () => {
  const lines: string[] = [];
  const onLine = (line: string) => void lines.push(line);
  const result = await run("sh", ["-c", "printf one; sleep 0.1; echo ' and two'; echo three >&2; exit 3"], { onLine });
  assert.deepEqual(result, { status: 3, stdout: "one and two\n", stderr: "three\n" });
  assert.deepEqual(lines.sort(), ["one and two", "three"]);
});

test("a program that is not there is an error", async () => {
  await assert.rejects(run(path.join(folder, "nothing"), []), { code: "ENOENT" });
});

test("a program that says nothing for too long is ended", async () => {
  const file = path.join(folder, "pid");
  await assert.rejects(run("sh", ["-c", `echo $$ > ${file}; exec sleep 60`], { timeoutMs: 500 }), /no answer within 0.5 s/);
  const pid = Number(readFileSync(file, "utf8"));
  assert.ok(pid > 0);
  assert.ok(!alive(pid));
});

test("a program that does not want to end is ended by force", async () => {
  const file = path.join(folder, "pid");
  const stubborn = `trap '' TERM; echo $$ > ${file}; while :; do sleep 0.1; done`;
  await assert.rejects(run("sh", ["-c", stubborn], { timeoutMs: 500 }), /no answer/);
  await until(() => !alive(Number(readFileSync(file, "utf8"))));
});

test("a program that has gone and left its output to another one keeps nobody waiting", async () => {
  await assert.rejects(run("sh", ["-c", "setsid sleep 60 & exit 0"], { timeoutMs: 300 }), /no answer/);
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

test("programs start at home, and without what changes Python's imports", async () => {
  process.env.PYTHONPATH = folder;
  const { stdout } = await run("sh", ["-c", "pwd -P; echo $PYTHONPATH"]).finally(() => delete process.env.PYTHONPATH);
  assert.equal(stdout, `${realpathSync(homedir())}\n\n`);
});

const found = async (places: Places, platform: NodeJS.Platform = "linux") => {
  const list = [];
  for await (const each of candidates(places, platform)) list.push(each);
  return list;
};

test("places are tried in their order, the setting alone where there is one", async () => {
  const commands = async (...given: Parameters<typeof found>) => (await found(...given)).map((each) => each.command);
  const places = { setting: [], ownPython: "/own/python", chosenPython: () => Promise.resolve("/chosen/python") };
  assert.deepEqual(await commands(places), ["/own/python", "/chosen/python", "treeline-lsp", "python3", "python"]);
  assert.deepEqual(await commands({ setting: [] }, "win32"), ["treeline-lsp", "py", "python"]);
  const [only, ...others] = await found({ ...places, setting: ["/set/server", "--log-level", "debug"] });
  assert.deepEqual([only?.command, only?.args, others], ["/set/server", ["--log-level", "debug"], []]);
});

test("the first place that answers is taken, and further ones are not looked for", async () => {
  const own = script("own", "echo no module >&2; exit 1");
  const chosen = script("chosen", '[ "$*" = "-I -m lsp_server --version" ] && echo "treeline-lsp 0.1.0"');
  const server = await find({ setting: [], ownPython: own, chosenPython: () => Promise.resolve(chosen) });
  assert.ok("server" in server);
  assert.equal(server.server.command, chosen);
  assert.equal(server.version, "0.1.0");
  const asked = () => Promise.reject(new Error("nobody was to ask"));
  assert.ok("server" in (await find({ setting: [], ownPython: chosen, chosenPython: asked })));
});

test("what was tried is told, and a program of another name is no server", async () => {
  const other = script("treeline-lsp", 'echo "treeline 1.0.1"');
  const none = await find({ setting: [other] });
  assert.ok("tried" in none);
  assert.deepEqual(none.tried, [
    `${other} (the setting treeline.serverCommand): it did not say that it is Treeline's server`,
  ]);
  process.env.PATH = folder;
  const nowhere = await find({ setting: [] });
  assert.ok("tried" in nowhere);
  assert.match(nowhere.tried.at(-1) ?? "", /^python -I -m lsp_server \(PATH\): not there$/);
});

test("looking for a server can be given up", async () => {
  const abort = new AbortController();
  const began = path.join(folder, "began");
  const looking = find({ setting: [script("hangs", `: > ${began}`, "sleep 60")] }, abort.signal);
  await until(() => existsSync(began));
  abort.abort();
  assert.match(JSON.stringify(await looking), /cancelled/);
});

test("a command of the settings may name the home folder, and the workspace's", () => {
  const both = { home: "/home/me", folder: "/work" };
  const none = { home: "/home/me", folder: undefined };
  assert.deepEqual(filledIn(["~/venv/bin/python", "-I"], both), ["/home/me/venv/bin/python", "-I"]);
  assert.deepEqual(filledIn([".venv/bin/python", "x/y"], both), ["/work/.venv/bin/python", "x/y"]);
  assert.deepEqual(filledIn(["python", "${workspaceFolder}/lsp.py"], both), ["python", "/work/lsp.py"]);
  assert.deepEqual(filledIn(["${workspaceFolder}/bin/lsp"], none), ["${workspaceFolder}/bin/lsp"]);
  assert.deepEqual(filledIn(["./bin/lsp"], none), ["./bin/lsp"]); // of a folder that is not trusted nothing is run
  assert.deepEqual(filledIn(["treeline-lsp", "~x"], both), ["treeline-lsp", "~x"]);
  assert.deepEqual(filledIn([], both), []);
});

test("macOS's stand-in for Python is left alone until there is a Python behind it", async (context) => {
  if (!existsSync("/usr/bin/python3")) {
    context.skip("this machine has no /usr/bin/python3");
    return;
  }
  mkdirSync(path.join(folder, "bin"));
  pathOfTest();
  script("bin/xcode-select", "exit 2");
  assert.ok(await isStandIn("python3", "darwin"));
  assert.ok(await isStandIn("/usr/bin/python3", "darwin"));
  assert.ok(!(await isStandIn("python3", "linux")));
  assert.ok(!(await isStandIn("/opt/homebrew/bin/python3", "darwin")));
  script("bin/xcode-select", '[ "$1" = -p ]');
  assert.ok(!(await isStandIn("python3", "darwin")));
  script("bin/xcode-select", "exit 2");
  script("bin/python3", "exit 0");
  assert.ok(!(await isStandIn("python3", "darwin")));
});
