/** What is done with the editor's help: updates, the chosen interpreter, the model. */

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import * as path from "node:path";
import { afterEach, test } from "node:test";
import { Environment } from "../src/environment.ts";
import { keepUp } from "../src/installer.ts";
import type { Log } from "../src/log.ts";
import { pickModel } from "../src/models.ts";
import { Interpreter } from "../src/pythonExtension.ts";
import type { Session } from "../src/session.ts";
import { folder, pathOfTest, script, until } from "./scratch.ts";
import { executed, extensions, stored, window, workspace } from "./vscode.ts";

const LOG = { main: { info: () => undefined, warn: () => undefined } } as unknown as Log;

afterEach(() => {
  extensions.python = undefined;
  workspace.isTrusted = true;
  stored.user.clear();
  window.shown.length = 0;
  window.answer = undefined;
});

test("another server than the extension's in its own environment is offered an update", async () => {
  script("bin/uv", 'if [ "$1" = venv ]; then mkdir -p "$5/bin" && : > "$5/bin/python"; fi');
  pathOfTest();
  const wheels = path.join(folder, "wheels");
  mkdirSync(wheels);
  writeFileSync(path.join(wheels, "treeline-0.1.0-py3-none-any.whl"), "");
  const environment = new Environment(path.join(folder, "storage"), wheels);
  await keepUp(environment, LOG);
  await environment.install({ signal: new AbortController().signal, report: () => undefined });
  await keepUp(environment, LOG);
  assert.deepEqual(window.shown, []);
  renameSync(path.join(wheels, "treeline-0.1.0-py3-none-any.whl"), path.join(wheels, "treeline-0.2.0-py3-none-any.whl"));
  stored.user.set("treeline.serverCommand", ["/another/one"]);
  await keepUp(environment, LOG);
  assert.deepEqual(window.shown, []);
  stored.user.clear();
  window.answer = "Install";
  await keepUp(environment, LOG);
  assert.match(JSON.stringify(window.shown), /holds treeline-0\.1\.0-/);
  await until(() => executed.at(-1)?.[0] === "treeline.installServer");
});

/** Stands for the extension for Python, whose answers take as long as `activation`. */
function pythonExtension(activation: Promise<unknown> = Promise.resolve()) {
  const listeners: (() => void)[] = [];
  let activations = 0;
  const environments = {
    onDidChangeActiveEnvironmentPath: (listener: () => void) => {
      listeners.push(listener);
      return { dispose: () => undefined };
    },
    getActiveEnvironmentPath: () => ({ path: "chosen" }),
    resolveEnvironment: () => Promise.resolve({ executable: { uri: { fsPath: "/chosen/python" } } }),
  };
  const activate = () => {
    activations += 1;
    return activation.then(() => ({ environments }));
  };
  extensions.python = { activate };
  return { listeners, activations: () => activations };
}

test("the chosen interpreter is asked for, and another choice is told", async () => {
  const { listeners } = pythonExtension();
  const interpreter = new Interpreter();
  let changes = 0;
  interpreter.onDidChange(() => changes++);
  assert.equal(await interpreter.path(), "/chosen/python");
  assert.equal(await interpreter.path(), "/chosen/python");
  assert.equal(listeners.length, 1);
  listeners[0]?.();
  assert.equal(changes, 1);
  interpreter.dispose();
});

test("without the extension for Python, trust or an answer in time there is no chosen interpreter", async () => {
  assert.equal(await new Interpreter().path(), undefined);
  const slow = pythonExtension(new Promise(() => undefined));
  assert.equal(await new Interpreter().path(50), undefined);
  workspace.isTrusted = false;
  assert.equal(await new Interpreter().path(), undefined);
  assert.equal(slow.activations(), 1);
  workspace.isTrusted = true;
  pythonExtension(Promise.reject(new Error("broken")));
  assert.equal(await new Interpreter().path(), undefined);
});

test("a model can be picked while the server does not run, and what fails says why", async () => {
  const preset = { name: "bundled", target: "bundled", drafter: "d", summary: "small", memory: null, context_length: null };
  const models = JSON.stringify({ presets: [preset], repositories: [], stored: [] });
  const chosen = path.join(folder, "chosen");
  const answers = `list) echo '${models}';; doctor*) exit 2;; use) echo "$3" > ${chosen};;`;
  script("treeline", `case "$2$([ "$1" = doctor ] && echo doctor)" in ${answers} esac`);
  const command = { command: path.join(folder, "treeline-lsp"), args: [], source: "a test" };
  const execute = () => Promise.reject(new Error("the server does not run"));
  const session = { command, state: { kind: "failed" }, engine: undefined, execute } as unknown as Session;
  window.answer = "bundled";
  await pickModel(session, LOG);
  assert.equal(readFileSync(chosen, "utf8"), "bundled\n");
  script("treeline", "echo no such option; exit 2");
  await assert.rejects(pickModel(session, LOG), /^Error: no such option$/);
});
