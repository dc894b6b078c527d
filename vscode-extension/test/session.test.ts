/** The life of the server, with a connection that does as it is told. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import type { Places } from "../src/finder.ts";
import type { Log } from "../src/log.ts";
import { Session, type Connection, type Handlers } from "../src/session.ts";
import * as settings from "../src/settings.ts";
import type { EngineStatus } from "../src/state.ts";
import { executed, stored } from "./vscode.ts";

/** Says that it is a server of version 0.1.0. */
const SERVER = ["sh", "-c", "echo treeline-lsp 0.1.0"];

class Fake implements Connection {
  readonly handlers: Handlers;
  readonly sent: unknown[][] = [];
  disposed = false;
  readonly #start: Promise<void>;

  constructor(handlers: Handlers, start: Promise<void>) {
    this.handlers = handlers;
    this.#start = start;
  }

  start(): Promise<void> {
    return this.#start;
  }

  dispose(): Promise<void> {
    this.disposed = true;
    return Promise.resolve();
  }

  sendRequest<R>(method: string, params: unknown): Promise<R> {
    this.sent.push([method, params]);
    return Promise.resolve("answer" as R);
  }

  sendNotification(method: string, params: unknown): Promise<void> {
    if (gone) return Promise.reject(new Error("the connection is closed"));
    this.sent.push([method, params]);
    return Promise.resolve();
  }
}

let places: (() => Promise<Places>) | undefined;
let connections: Fake[] = [];
let reported: unknown[][] = [];
let starting: () => Promise<void> = () => Promise.resolve();
let gone = false;

function newSession(setting: readonly string[] = SERVER, version = "0.1.0"): Session {
  const said = (...words: unknown[]) => void reported.push(words);
  const channel = { info: () => undefined, warn: () => undefined, error: () => undefined };
  return new Session(
    { main: channel, trace: channel } as unknown as Log,
    (_, handlers) => {
      const connection = new Fake(handlers, starting());
      connections.push(connection);
      return connection;
    },
    () => places?.() ?? Promise.resolve({ setting }),
    {
      missing: (tried) => said("missing", tried.length),
      otherVersion: (server, extension) => said("version", server, extension),
      gaveUp: (crashes) => said("gave up", crashes),
    },
    version,
  );
}

function last(): Fake {
  const connection = connections.at(-1);
  assert.ok(connection);
  return connection;
}

async function until(condition: () => boolean): Promise<void> {
  const began = performance.now();
  while (!condition()) {
    assert.ok(performance.now() - began < 30_000, "it did not happen");
    await new Promise((resolve) => setImmediate(resolve)); // timers may stand still
  }
}

beforeEach(() => {
  connections = [];
  reported = [];
  starting = () => Promise.resolve();
  gone = false;
  stored.user.clear();
  stored.machine.clear();
  stored.workspace.clear();
});

afterEach(() => mock.timers.reset());

test("a session starts, tells its state, and ends", async () => {
  const session = newSession();
  let changes = 0;
  session.onDidChange(() => changes++);
  assert.equal(session.state.kind, "starting");
  await assert.rejects(session.execute("x"), /does not run/);
  await session.restart();
  assert.deepEqual(session.state, { kind: "running", version: "0.1.0", source: "the setting treeline.serverCommand" });
  assert.deepEqual(executed.at(-1), ["setContext", "treeline.running", true]);
  const status = { state: "ready" } as EngineStatus;
  last().handlers.status(status);
  assert.equal(session.engine, status);
  assert.ok(changes >= 3);
  assert.equal(session.command?.command, "sh");
  await session.stop();
  assert.ok(last().disposed);
  last().handlers.closed(); // as it was asked to
  assert.equal(connections.length, 1);
});

test("commands, settings and trust reach the server", async () => {
  const session = newSession();
  await session.settingsChanged(); // nobody is there yet
  await session.restart();
  stored.user.set("treeline.maxTokens", 7);
  assert.equal(await session.execute("treeline.server.explain", "uri"), "answer");
  await session.settingsChanged();
  await session.trusted();
  const [explain, changed, trusted] = last().sent;
  assert.deepEqual(explain, ["workspace/executeCommand", { command: "treeline.server.explain", arguments: ["uri"] }]);
  assert.equal(changed?.[0], "workspace/didChangeConfiguration");
  assert.deepEqual(trusted, ["treeline/trusted", {}]);
  const { settings: told } = changed[1] as { settings: { treeline: Record<string, unknown> } };
  assert.equal(told.treeline.maxTokens, 7);
  assert.ok(!("serverCommand" in told.treeline));
  executed.length = 0;
  await session.announce();
  assert.deepEqual(executed, [["setContext", "treeline.found", true]]);
  await session.stop();
});

test("a crash is followed by another start, after a while", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const session = newSession();
  await session.restart();
  last().handlers.closed();
  last().handlers.closed(); // said twice, counted once
  assert.equal(session.state.kind, "starting");
  mock.timers.tick(499);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(connections.length, 1);
  mock.timers.tick(1);
  await until(() => session.state.kind === "running");
  assert.equal(connections.length, 2);
  assert.deepEqual(reported, []);
  await session.stop();
});

test("after the fifth crash nothing is started until somebody asks", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const session = newSession();
  await session.restart();
  for (let crash = 1; crash < 5; crash++) {
    last().handlers.closed();
    mock.timers.tick(30_000);
    await until(() => connections.length === crash + 1 && session.state.kind === "running");
  }
  last().handlers.closed();
  assert.equal(session.state.kind, "failed");
  assert.deepEqual(reported, [["gave up", 5]]);
  mock.timers.tick(600_000);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(connections.length, 5);
  await session.restart();
  assert.equal(session.state.kind, "running");
  await session.stop();
});

test("a start that fails counts as a crash", async () => {
  starting = () => Promise.reject(new Error("it will not start"));
  const session = newSession();
  await session.restart();
  assert.equal(session.state.kind, "starting");
  assert.ok(last().disposed);
  await session.stop();
});

test("a start that hangs is given up for another one, and when the window goes", async () => {
  starting = () => new Promise(() => undefined);
  const session = newSession();
  void session.restart();
  await until(() => connections.length === 1);
  void session.restart();
  await until(() => connections.length === 2);
  assert.ok(connections[0]?.disposed);
  assert.equal(session.state.kind, "starting");
  connections[0].handlers.closed(); // its process has been ended
  starting = () => Promise.resolve();
  await session.restart();
  assert.equal(session.state.kind, "running");
  starting = () => new Promise(() => undefined);
  void session.restart();
  await until(() => connections.length === 4);
  await session.stop();
  assert.ok(last().disposed);
  assert.equal(connections.length, 4);
});

test("what starts after it was given up is ended", async () => {
  let start: () => void = () => undefined;
  starting = () => new Promise((resolve) => (start = resolve));
  const session = newSession();
  void session.restart();
  await until(() => connections.length === 1);
  await session.stop();
  last().disposed = false;
  start();
  await until(() => last().disposed);
});

test("who ends while the server is looked for gets none, and is told nothing", async () => {
  const session = newSession(["sh", "-c", "sleep 60"]);
  void session.restart();
  await new Promise((resolve) => setTimeout(resolve, 100));
  await session.stop();
  assert.deepEqual([connections.length, reported.length], [0, 0]);
});

test("what keeps the server from being looked for is no end of it", async () => {
  const session = newSession();
  places = () => Promise.reject(new Error("no such place"));
  await session.restart();
  assert.equal(session.state.kind, "failed");
  places = undefined;
  await session.restart();
  assert.equal(session.state.kind, "running");
  await session.stop();
});

test("a server that has just gone is not told settings, and that is no error", async () => {
  const session = newSession();
  await session.restart();
  gone = true;
  await session.settingsChanged();
  await session.trusted();
  await session.stop();
});

test("a missing server is reported, another version too", async () => {
  const missing = newSession(["/nowhere/treeline-lsp"]);
  await missing.restart();
  assert.equal(missing.state.kind, "missing");
  const other = newSession(SERVER, "0.2.0");
  await other.restart();
  assert.equal(other.state.kind, "running");
  assert.deepEqual(reported, [["missing", 1], ["version", "0.1.0", "0.2.0"]]);
  other.dispose();
  await other.stop();
});

test("toggling writes where the setting is set", async () => {
  await settings.toggle();
  assert.equal(stored.user.get("treeline.enabled"), false);
  await settings.toggle();
  assert.equal(stored.user.get("treeline.enabled"), true);
  stored.workspace.set("treeline.disabledLanguages", ["c"]);
  await settings.toggleLanguage("python");
  assert.deepEqual(stored.workspace.get("treeline.disabledLanguages"), ["c", "python"]);
  await settings.toggleLanguage("c");
  assert.deepEqual(settings.disabledLanguages(), ["python"]);
  assert.equal(stored.user.get("treeline.disabledLanguages"), undefined);
  assert.deepEqual(settings.serverCommand(), []);
});

test("what a remote machine's settings say is toggled for the workspace, which is stronger", async () => {
  stored.machine.set("treeline.enabled", false);
  await settings.toggle();
  assert.equal(settings.enabled(), true);
  assert.equal(stored.user.get("treeline.enabled"), undefined);
});

test("a word where a list is expected is a list of it", () => {
  stored.user.set("treeline.serverCommand", "/opt/treeline-lsp").set("treeline.disabledLanguages", "cpp");
  assert.deepEqual(settings.serverCommand(), ["/opt/treeline-lsp"]);
  assert.deepEqual(settings.disabledLanguages(), ["cpp"]);
  assert.deepEqual(settings.serverSettings().disabledLanguages, ["cpp"]);
  stored.user.set("treeline.serverCommand", "").set("treeline.disabledLanguages", ["c", 7, null]);
  assert.deepEqual(settings.serverCommand(), []);
  assert.deepEqual(settings.disabledLanguages(), ["c"]);
});
