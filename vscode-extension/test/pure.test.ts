/** Versions, back-off, commands: functions of what they are given. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Backoff } from "../src/backoff.ts";
import { parseLine } from "../src/log.ts";
import { commandLineOf, moduleOf } from "../src/serverCommand.ts";
import { compatible, versionIn } from "../src/version.ts";

test("a version is read from Treeline's own output only", () => {
  assert.equal(versionIn("treeline-lsp 0.1.0\n"), "0.1.0");
  assert.equal(versionIn("treeline-lsp 1.2.3rc1\r\n"), "1.2.3rc1");
  assert.equal(versionIn("treeline 1.0.1\n"), undefined);
  assert.equal(versionIn("something\ntreeline-lsp 0.1.0\n"), undefined);
  assert.equal(versionIn(""), undefined);
});

test("versions of one line go together", () => {
  assert.ok(compatible("0.1.0", "0.1.9"));
  assert.ok(compatible("1.2.0", "1.9.3"));
  assert.ok(!compatible("0.1.0", "0.2.0"));
  assert.ok(!compatible("1.0.0", "2.0.0"));
  assert.ok(!compatible("0.1.0", "1.1.0"));
});

test("each crash waits longer, and the fifth is the last", () => {
  const backoff = new Backoff();
  const waits = [0, 1000, 2000, 3000, 4000].map((now) => backoff.crashed(now));
  assert.deepEqual(waits, [500, 1000, 2000, 4000, undefined]);
  assert.equal(backoff.crashes, 5);
});

test("crashes of long ago do not count, nor those before a reset", () => {
  const backoff = new Backoff();
  for (let hour = 0; hour < 20; hour++) assert.equal(backoff.crashed(hour * 3_600_000), 500);
  backoff.reset();
  assert.equal(backoff.crashed(20 * 3_600_000), 500);
});

test("Python runs the server isolated from the workspace", () => {
  assert.deepEqual(moduleOf("/v/bin/python", "a test").args, ["-I", "-m", "lsp_server"]);
});

test("the command line is that of the same installation", () => {
  const commandLine = (command: string, ...args: string[]) => commandLineOf({ command, args, source: "a test" });
  assert.deepEqual(commandLineOf(moduleOf("/v/bin/python", "a test")), {
    command: "/v/bin/python",
    args: ["-I", "-m", "engine"],
  });
  assert.deepEqual(commandLine("/v/bin/treeline-lsp"), { command: "/v/bin/treeline", args: [] });
  assert.deepEqual(commandLine("treeline-lsp", "--log-level", "debug"), { command: "treeline", args: [] });
  assert.equal(commandLine("/v/bin/wrapper"), undefined);
  assert.equal(commandLine("lsp_server"), undefined);
});

test("the server's lines keep their levels", () => {
  const line = "12:00:01 warning lsp_server.server: no such setting";
  assert.deepEqual(parseLine(line), { level: "warn", text: "lsp_server.server: no such setting" });
  assert.equal(parseLine("12:00:01 critical x").level, "error");
  assert.deepEqual(parseLine("Traceback"), { level: "info", text: "Traceback" });
});
