/** The environment that the extension makes: with real processes, in place of Python and uv. */

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { Environment, newEnoughPython } from "../src/environment.ts";
import { folder, pathOfTest, script, until } from "./scratch.ts";

const WHEEL = "treeline-0.1.0-py3-none-any.whl";
const storage = () => path.join(folder, "storage");
const left = () => (existsSync(storage()) ? readdirSync(storage()).filter((name) => name !== "server.txt") : []);

function withWheel(...others: string[]): Environment {
  const wheels = path.join(folder, "wheels");
  mkdirSync(wheels, { recursive: true });
  for (const name of [WHEEL, ...others]) writeFileSync(path.join(wheels, name), "");
  return new Environment(storage(), wheels);
}

const progress = (signal = new AbortController().signal) => {
  const lines: string[] = [];
  return { lines, signal, report: (line: string) => void lines.push(line) };
};

/** Stands for Python: knows `-c`, makes an environment with `-m venv --clear`, and installs with what `pip` says. */
function python(pip: string): void {
  const venv = 'if [ "$2" = venv ]; then rm -rf "$4/bin" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python"; fi';
  script("bin/python3", venv, `case "$*" in *" pip "*) ${pip};; esac`);
  pathOfTest();
}

test("without uv, an environment is made by Python's own tools", async () => {
  python('echo "Collecting torch"');
  const environment = withWheel("constraints.txt");
  assert.equal(environment.python, undefined);
  assert.equal(environment.installed, undefined);
  const told = progress();
  await environment.install(told);
  const [name = ""] = left();
  assert.match(name, new RegExp(`^server-0\\.1\\.0-${process.pid}-`));
  const made = path.join(storage(), name, "bin", "python");
  assert.equal(environment.python, made);
  assert.equal(environment.installed, WHEEL);
  assert.ok(told.lines.includes("Collecting torch"));
  const wheels = path.join(folder, "wheels");
  const packages = `${path.join(wheels, WHEEL)}[lsp,server] --constraint ${path.join(wheels, "constraints.txt")}`;
  const command = `${made} -m pip --disable-pip-version-check --no-input install ${packages}`;
  assert.ok(told.lines.includes(command), told.lines.join("\n"));
});

const UV = 'if [ "$1" = venv ]; then mkdir -p "$5/bin" && : > "$5/bin/python"; fi';

test("with uv, uv makes it", async () => {
  script("bin/uv", UV);
  pathOfTest();
  const environment = withWheel();
  const told = progress();
  await environment.install(told);
  assert.ok(environment.python);
  assert.deepEqual(told.lines.map((line) => line.split(" ").slice(0, 2).join(" ")), ["uv venv", "uv pip"]);
});

test("where uv fails, Python's own tools try", async () => {
  script("bin/uv", UV, 'if [ "$1" = pip ]; then echo "no such index" >&2; exit 1; fi');
  python(":");
  const environment = withWheel();
  const told = progress();
  await environment.install(told);
  assert.ok(environment.python);
  assert.ok(told.lines.some((line) => line.includes(" -m pip ")), told.lines.join("\n"));
});

test("where uv fails and there is no Python, uv's complaint is told", async () => {
  const uv = script("bin/uv", UV, 'if [ "$1" = pip ]; then echo "no such index" >&2; exit 1; fi');
  for (const name of ["sh", "mkdir"]) symlinkSync(`/bin/${name}`, path.join(path.dirname(uv), name));
  process.env.PATH = path.dirname(uv);
  await assert.rejects(withWheel().install(progress()), /no such index/);
  assert.deepEqual(left(), []);
});

test("an installation that fails leaves nothing and says why", async () => {
  const environment = withWheel();
  for (const [pip, reason] of [
    ['echo "ERROR: no space left" >&2; exit 1', /^ERROR: no space left$/],
    ["echo said on the other stream; exit 1", /^said on the other stream$/],
    ["exit 3", /ended with status 3$/],
  ] as const) {
    python(pip);
    await assert.rejects(environment.install(progress()), ({ message }: Error) => reason.test(message));
    assert.equal(environment.python, undefined);
    assert.deepEqual(left(), []);
  }
});

test("an installation that is cancelled leaves nothing, also when the window goes", async () => {
  python(`: > ${path.join(folder, "began")}; sleep 60`);
  const environment = withWheel();
  const abort = new AbortController();
  const cancelling = (): Promise<void> => {
    abort.abort();
    return Promise.resolve();
  };
  for (const cancel of [cancelling, () => environment.stop()]) {
    rmSync(path.join(folder, "began"), { force: true });
    const installing = environment.install(progress(abort.signal.aborted ? undefined : abort.signal));
    const ended = assert.rejects(installing, { name: "AbortError" });
    await until(() => existsSync(path.join(folder, "began")));
    await cancel();
    await ended;
    assert.deepEqual(left(), []);
  }
});

test("one installation at a time, and the one in use stays until another is whole", async () => {
  python(`echo pip >> ${path.join(folder, "pips")}`);
  const environment = withWheel();
  await environment.install(progress());
  const former = environment.python;
  python(`echo pip >> ${path.join(folder, "pips")}; sleep 0.3; exit 1`);
  const failing = assert.rejects(environment.install(progress()));
  await assert.rejects(environment.install(progress()), /being installed already/);
  await failing;
  assert.equal(readFileSync(path.join(folder, "pips"), "utf8"), "pip\npip\n");
  assert.ok(former && existsSync(former));
  assert.equal(environment.python, former);
});

test("former environments are removed, those of other windows are not", async () => {
  python(":");
  const environment = withWheel();
  await environment.install(progress());
  await environment.install(progress());
  const others = ["server", `server-0.1.0-${process.ppid}-aaaaaa`, "server-0.1.0-4194303-aaaaaa", "elsewhere"];
  for (const name of others) mkdirSync(path.join(storage(), name));
  assert.equal(left().length, 6);
  await environment.tidy();
  const current = path.basename(path.dirname(path.dirname(environment.python ?? "")));
  assert.deepEqual(left().sort(), ["elsewhere", current, others[1]].sort());
});

test("an environment that another window runs stays there", async () => {
  python(":");
  const environment = withWheel();
  await environment.install(progress());
  await environment.use();
  const former = path.dirname(path.dirname(environment.python ?? ""));
  const mine = path.join(former, `used-by-${process.pid}`);
  assert.ok(existsSync(mine));
  renameSync(mine, path.join(former, `used-by-${process.ppid}`)); // as another window does
  await environment.install(progress());
  await environment.tidy();
  assert.ok(existsSync(former));
  renameSync(path.join(former, `used-by-${process.ppid}`), path.join(former, "used-by-4194303")); // which has ended
  await environment.tidy();
  assert.ok(!existsSync(former));
});

test("an environment of another wheel is out of date", async () => {
  python(":");
  const environment = withWheel();
  assert.equal(await environment.outdated(), false); // there is none
  await environment.install(progress());
  assert.equal(await environment.outdated(), false);
  renameSync(path.join(folder, "wheels", WHEEL), path.join(folder, "wheels", "treeline-0.2.0-py3-none-any.whl"));
  assert.equal(await environment.outdated(), true);
  rmSync(path.join(folder, "wheels"), { recursive: true });
  assert.equal(await environment.outdated(), false); // there is nothing to install
});

test("without a wheel or a Python there is a message", async () => {
  const environment = new Environment(storage(), path.join(folder, "none"));
  await assert.rejects(environment.install(progress()), /carries no server/);
  await assert.rejects(newEnoughPython([script("old", "exit 1")]), /no Python 3.11 or newer/);
  const bare = script("bare", 'case "$*" in *ensurepip*) exit 1;; esac'); // as Debian's without its package for venv
  const good = script("good", "exit 0");
  assert.equal(await newEnoughPython([script("old", "exit 1"), bare, process.execPath, good]), good);
});
