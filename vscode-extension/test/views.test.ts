/** What is shown: states, menu, explanations, statistics, models. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { appearance, spelled } from "../src/appearance.ts";
import { obstacle, sentence, table, type Outcome } from "../src/explanation.ts";
import { entries, showMenu } from "../src/menu.ts";
import { choices, toDownload, type Models } from "../src/modelList.ts";
import { Quiet } from "../src/quiet.ts";
import type { EngineStatus, Situation } from "../src/state.ts";
import { figures, page } from "../src/statistics.ts";
import { executed, window } from "./vscode.ts";

const ENGINE: EngineStatus = {
  kind: "Normal",
  busy: false,
  message: "",
  state: "ready",
  model: "bundled",
  phase: "",
  done: 0,
  total: 0,
  tokensPerSecond: 146.4,
  acceptedPerPass: 2.1,
  engineMemoryBytes: 319_000_000,
};
const READY: Situation = {
  server: { kind: "running", version: "0.1.0", source: "PATH" },
  engine: ENGINE,
  enabled: true,
  shown: true,
  disabledLanguages: ["markdown"],
  language: "python",
};

function look(change: Partial<Situation>, engine: Partial<EngineStatus> = {}) {
  return appearance({ ...READY, engine: { ...ENGINE, ...engine }, ...change });
}

test("every state has its looks", () => {
  const cases: [string, ReturnType<typeof look>][] = [
    ["ready: ready", look({})],
    ["busy: the model is working", look({}, { busy: true })],
    ["idle: idle: nothing to complete in this editor", look({ language: undefined })],
    ["paused: paused: suggestions are switched off", look({ enabled: false })],
    ["disabled: disabled for markdown", look({ language: "markdown" })],
    ["starting: starting the server", look({ server: { kind: "starting" }, engine: undefined })],
    ["starting: starting the server", look({ engine: undefined })],
    ["starting: starting the engine", look({}, { state: "starting" })],
    ["starting: loading target: layer 3 of 8", look({}, { state: "loading", phase: "target", done: 3, total: 8 })],
    ["error: no such model", look({}, { state: "failed", message: "no such model" })],
    ["error: the server was not found", look({ server: { kind: "missing", tried: [] } })],
    ["error: it has crashed", look({ server: { kind: "failed", message: "it has crashed" } })],
  ];
  for (const [expected, { phase, summary }] of cases) assert.equal(`${phase}: ${summary}`, expected);
});

test("loading is shown in per cent", () => {
  assert.equal(look({}, { state: "loading", done: 3, total: 8 }).text, "$(loading~spin) Treeline 37%");
});

test("an error counts more than a pause, a pause more than a start", () => {
  assert.equal(look({ enabled: false, server: { kind: "missing", tried: [] } }).phase, "error");
  assert.equal(look({ enabled: false, server: { kind: "starting" } }).phase, "paused");
});

test("details are those that are known", () => {
  assert.deepEqual(look({}).details, [
    "Model: bundled",
    "Speed: 146.4 tokens/s",
    "Accepted per pass: 2.1",
    "Engine's memory: 319 MB",
    "Server: 0.1.0, from PATH",
  ]);
  const unknown = { model: "", tokensPerSecond: null, acceptedPerPass: null, engineMemoryBytes: null };
  assert.deepEqual(look({}, unknown).details, ["Server: 0.1.0, from PATH"]);
  assert.deepEqual(look({ server: { kind: "missing", tried: ["here", "there"] } }).details, ["here", "there"]);
  assert.equal(spelled(39_767_785_472), "39.8 GB");
});

const KNOWN = ["trigger", "snooze", "cancelSnooze"].map((name) => `editor.action.inlineSuggest.${name}`);

test("the menu has what VS Code can do, as far as this one can", () => {
  const suggest = (change: Partial<Situation>, known = KNOWN) =>
    entries({ ...READY, ...change }, known).map((each) => each.command).filter((each) => each.startsWith("editor."));
  assert.deepEqual(suggest({}), KNOWN);
  assert.deepEqual(suggest({}, KNOWN.slice(0, 1)), KNOWN.slice(0, 1));
  for (const change of [{ enabled: false }, { language: undefined }, { language: "markdown" }]) {
    assert.deepEqual(suggest(change), KNOWN.slice(1));
  }
});

test("the menu follows the situation", async () => {
  const labels = (change: Partial<Situation>) => entries({ ...READY, ...change }, KNOWN).map((each) => each.label);
  assert.ok(labels({}).some((label) => label.endsWith("Pause suggestions")));
  assert.ok(labels({ enabled: false }).some((label) => label.endsWith("Resume suggestions")));
  assert.ok(labels({ language: "markdown" }).some((label) => label.endsWith("Resume suggestions for markdown")));
  assert.ok(!labels({ language: undefined }).some((label) => label.includes(" for ")));
  assert.ok(!labels({}).some((label) => label.includes("Install")));
  assert.ok(labels({ server: { kind: "missing", tried: [] } })[0]?.includes("Install"));
  window.answer = "Show logs";
  await showMenu(READY);
  assert.deepEqual(executed.at(-1), ["treeline.showLogs"]);
});

const OUTCOME: Outcome = {
  reason: "rule",
  detail: "in the middle of a word",
  uri: "file:///w/a%7Cb.py",
  invoked: false,
  characters: 0,
  stages: { cache: 0.1, answer: 12.4 },
};

test("the reason is a sentence", () => {
  const say = (reason: string, detail = "") => sentence({ latest: { ...OUTCOME, reason, detail }, recent: [] });
  assert.equal(say("rule", "in the middle of a word"), "A keystroke here does not ask (in the middle of a word).");
  assert.equal(say("loading"), "The model is still loading.");
  assert.equal(say("disabled", "suggestions are switched off"), "Suggestions are switched off.");
  assert.equal(say("of tomorrow"), "Of tomorrow.");
  assert.match(sentence({ latest: null, recent: [] }), /Nothing has been asked/);
});

test("what keeps suggestions away as things are is the reason, whatever was asked before", () => {
  const why = (change: Partial<Situation>, large = false) => obstacle({ ...READY, ...change }, large) ?? "";
  assert.equal(obstacle(READY, false), undefined);
  assert.match(why({}, true), /very large/);
  assert.match(why({ language: undefined }), /nothing to complete/);
  assert.match(why({ server: { kind: "missing", tried: [] } }), /not found/);
  assert.match(why({ server: { kind: "failed", message: "" } }), /crashed/);
  assert.match(why({ server: { kind: "starting" } }), /server is starting/);
  assert.match(why({ enabled: false }), /paused/);
  assert.match(why({ shown: false }), /editor\.inlineSuggest\.enabled/);
  assert.match(why({ language: "markdown" }), /off for markdown/);
  assert.match(why({ engine: { ...ENGINE, state: "loading" } }), /still loading/);
  assert.match(why({ engine: undefined }), /still loading/);
  assert.match(why({ engine: { ...ENGINE, state: "failed", message: "no memory" } }), /failed: no memory/);
});

test("recent requests are a table, the latest first", () => {
  const lines = table({ latest: null, recent: [OUTCOME, { ...OUTCOME, reason: "answered", detail: "", invoked: true }] });
  assert.deepEqual(lines.split("\n").slice(4, 6), [
    "| a\\|b.py | command | answered | 0 | 12 ms |",
    "| a\\|b.py | typing | rule: in the middle of a word | 0 | 12 ms |",
  ]);
});

const STATISTICS = {
  requests: { answered: 3, "<rule>": 7 },
  shown: 4,
  accepted: 1,
  acceptedInPart: 1,
  charactersSaved: 42,
  delayMs: 53.9,
  firstTextMs: 0,
  status: ENGINE,
};

test("statistics say what is known", () => {
  const rows = new Map(figures(STATISTICS));
  assert.equal(rows.get("Characters accepted"), "42");
  assert.equal(rows.get("Accepted of those shown"), "2 of 4 (50%)");
  assert.equal(rows.get("Until the first text of the model"), "not yet known");
  const inParts = new Map(figures({ ...STATISTICS, shown: 1, accepted: 0, acceptedInPart: 5 }));
  assert.equal(inParts.get("Accepted of those shown"), "1 of 1 (100%)");
  const none = { ...ENGINE, model: "", tokensPerSecond: null, acceptedPerPass: null, engineMemoryBytes: null };
  const empty = new Map(figures({ ...STATISTICS, shown: 0, status: none, firstTextMs: 9 }));
  assert.equal(empty.get("Accepted of those shown"), "none yet");
  assert.equal(empty.get("Model"), "not yet known");
  assert.equal(empty.get("Until the first text of the model"), "9 ms");
});

test("the page loads nothing, runs nothing and escapes what it shows", () => {
  const html = page(STATISTICS, "once");
  assert.match(html, /default-src 'none'; style-src 'nonce-once'/);
  assert.doesNotMatch(html, /<script|<rule>|src=|href=/);
  assert.ok(html.indexOf("&#60;rule&#62;") < html.indexOf(">answered<")); // the most frequent first
  assert.match(page({ ...STATISTICS, requests: {} }, "once"), /There were none yet/);
});

const MODELS: Models = {
  presets: [
    { name: "bundled", target: "bundled", drafter: "bundled-drafter", summary: "small", memory: null, context_length: null },
    { name: "seven", target: "o/7b", drafter: "o/d", summary: "7B", memory: 10e9, context_length: 8192 },
    { name: "seventy", target: "o/70b", drafter: "o/d", summary: "70B", memory: null, context_length: null },
    { name: "gpu-24gb", target: "o/70b", drafter: "o/d", summary: "70B", memory: 22e9, context_length: 8192 },
  ],
  repositories: [
    { id: "o/7b", size: 5.6e9, licence: "Apache-2.0" },
    { id: "o/70b", size: 40e9, licence: "Llama" },
    { id: "o/d", size: 1e9, licence: "Apache-2.0" },
  ],
  stored: [
    { id: "o/7b", size: 5.5e9, complete: true },
    { id: "o/70b", size: 10e9, complete: false },
  ],
};

test("models say whether they fit and what is to be downloaded", () => {
  const list = choices(MODELS, 16e9, "seven", "seven");
  assert.deepEqual(list.map((each) => each.missing), [0, 1e9, 31e9, 31e9]);
  assert.equal(list[0]?.detail, "fits any machine · on this machine");
  assert.equal(list[1]?.label, "$(check) seven");
  assert.deepEqual(list.map((each) => each.description.endsWith("(suggested for this machine)")), [false, true, false, false]);
  assert.equal(list[1].detail, "fits: needs 10.0 GB of 16.0 GB · 1.0 GB to download · licence: Apache-2.0");
  const [, , seventy, gpu] = list.map((each) => each.detail);
  assert.match(seventy ?? "", /larger than this machine's 16.0 GB/);
  assert.match(gpu ?? "", /for a GPU with 22.0 GB/);
});

test("a model that is here in part, but larger than thought, is still not here", () => {
  const stored = [{ id: "o/7b", size: 6e9, complete: false }, { id: "o/d", size: 1e9, complete: true }];
  const seven = MODELS.presets[1];
  assert.ok(seven);
  assert.equal(toDownload({ ...MODELS, stored }, seven), 1);
});

test("the server hears of a large document neither its opening nor its changes, until it is opened small", () => {
  const quiet = new Quiet();
  const document = (lines: number, length: number) =>
    ({ lineCount: lines, getText: () => ({ length }), uri: { toString: () => "file:///a" } }) as never;
  assert.equal(quiet.opened(document(10, 10)), false);
  assert.equal(quiet.has(document(10, 10)), false);
  assert.equal(quiet.opened(document(200_000, 10)), true);
  assert.equal(quiet.has(document(5, 5)), true); // what was cut since then does not matter
  assert.equal(quiet.closed(document(5, 5)), true);
  assert.equal(quiet.has(document(5, 5)), false);
  assert.equal(quiet.opened(document(1, 6_000_000)), true);
  assert.equal(quiet.opened(document(5, 5)), false); // by another server, without having been closed
  assert.equal(quiet.has(document(5, 5)), false);
});
