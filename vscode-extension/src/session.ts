/** The life of the server: found, started, started again when it crashes, stopped. */

import * as vscode from "vscode";
import { Backoff } from "./backoff.ts";
import { find, type Places } from "./finder.ts";
import type { Log } from "./log.ts";
import type { ServerCommand } from "./serverCommand.ts";
import { serverSettings } from "./settings.ts";
import type { EngineStatus, ServerState } from "./state.ts";
import { compatible } from "./version.ts";

// Context keys, for which the first step of the walkthrough waits.
const RUNNING = "treeline.running";
const FOUND = "treeline.found";

/** A connection to one process of the server. */
export interface Connection {
  start(): Promise<void>;
  dispose(): Promise<void>;
  sendRequest<R>(method: string, params: unknown): Promise<R>;
  sendNotification(method: string, params: unknown): Promise<void>;
}

export interface Handlers {
  readonly status: (status: EngineStatus) => void;
  /** The process is gone, and nobody has asked for that. */
  readonly closed: () => void;
}

export type Connect = (server: ServerCommand, handlers: Handlers) => Connection;

/** What a person has to be told. */
export interface Reports {
  readonly missing: (tried: readonly string[]) => void;
  readonly otherVersion: (server: string, extension: string, source: string) => void;
  readonly gaveUp: (crashes: number) => void;
}

export class Session implements vscode.Disposable {
  readonly #changed = new vscode.EventEmitter<void>();
  readonly onDidChange = this.#changed.event;
  readonly #backoff = new Backoff();
  readonly #log: Log;
  readonly #connect: Connect;
  readonly #places: () => Promise<Places>;
  readonly #reports: Reports;
  readonly #version: string;
  #state: ServerState = { kind: "starting" };
  #engine: EngineStatus | undefined;
  #client: Connection | undefined;
  #command: ServerCommand | undefined;
  #timer: NodeJS.Timeout | undefined;
  #starting = new AbortController(); // of the last start that was asked for
  #work: Promise<void> = Promise.resolve(); // starts and stops come one after the other
  #disposed = false;

  /** `version`: the extension's. */
  constructor(log: Log, connect: Connect, places: () => Promise<Places>, reports: Reports, version: string) {
    this.#log = log;
    this.#connect = connect;
    this.#places = places;
    this.#reports = reports;
    this.#version = version;
  }

  get state(): ServerState {
    return this.#state;
  }

  /** What the server last said of itself and its engine. */
  get engine(): EngineStatus | undefined {
    return this.#engine;
  }

  /** How the server was called that runs now, or that ran last. */
  get command(): ServerCommand | undefined {
    return this.#command;
  }

  /** Start the server, in place of the one that runs. */
  restart(): Promise<void> {
    this.#backoff.reset();
    return this.#again();
  }

  /** Run one of the server's commands. Rejects where no server runs. */
  async execute<T>(command: string, ...args: readonly unknown[]): Promise<T> {
    const client = this.#client;
    if (client === undefined || this.#state.kind !== "running") throw new Error("the server does not run");
    return client.sendRequest<T>("workspace/executeCommand", { command, arguments: args });
  }

  /** Tell the server of changed settings. */
  async settingsChanged(): Promise<void> {
    await this.#notify("workspace/didChangeConfiguration", { settings: { treeline: serverSettings() } });
  }

  /** Tell the server that the workspace is trusted now. */
  async trusted(): Promise<void> {
    await this.#notify("treeline/trusted", {});
  }

  /** Let a walkthrough that has just been opened know that the server runs: what was so before, it does not notice. */
  async announce(): Promise<void> {
    await vscode.commands.executeCommand("setContext", FOUND, this.#state.kind === "running");
  }

  async stop(): Promise<void> {
    this.#disposed = true;
    clearTimeout(this.#timer);
    this.#starting.abort();
    this.#work = this.#work.then(() => this.#end());
    await this.#work;
  }

  dispose(): void {
    void this.stop();
    this.#changed.dispose();
  }

  async #notify(method: string, params: unknown): Promise<void> {
    if (this.#state.kind !== "running") return; // the next one is told at its start
    await this.#client?.sendNotification(method, params).catch((error: unknown) => {
      this.#log.main.warn(`the server was not told ${method}: ${String(error)}`); // it is about to end
    });
  }

  /** Start anew. A start that is under way is given up: what waits for it would wait for as long as it hangs. */
  #again(): Promise<void> {
    clearTimeout(this.#timer);
    this.#starting.abort();
    const { signal } = (this.#starting = new AbortController());
    const start = async (): Promise<void> => {
      await this.#end();
      if (!signal.aborted && !this.#disposed) await this.#start(signal);
    };
    this.#work = this.#work.then(start).catch((error: unknown) => {
      this.#log.main.error(`the server cannot be started: ${String(error)}`);
      this.#set({ kind: "failed", message: "the server cannot be started: the log says why" });
    });
    return this.#work;
  }

  async #start(signal: AbortSignal): Promise<void> {
    this.#set({ kind: "starting" });
    const givenUp = new Promise<undefined>((resolve) => {
      signal.addEventListener("abort", () => resolve(undefined), { once: true });
    });
    const found = await Promise.race([this.#places().then((places) => find(places, signal)), givenUp]);
    if (found === undefined || signal.aborted) return;
    if ("tried" in found) {
      for (const line of found.tried) this.#log.main.warn(`no server: ${line}`);
      this.#set({ kind: "missing", tried: found.tried });
      this.#reports.missing(found.tried);
      return;
    }
    const { server, version } = found;
    this.#command = server;
    this.#log.main.info(`starting ${[server.command, ...server.args].join(" ")}, ${version}, from ${server.source}`);
    if (!compatible(version, this.#version)) this.#reports.otherVersion(version, this.#version, server.source);
    const client: Connection = this.#connect(server, {
      status: (status) => this.#heard(client, status),
      closed: () => this.#crashed(client),
    });
    this.#client = client;
    const started = client.start();
    try {
      const first = await Promise.race([started.then(() => "started"), givenUp]);
      if (first === undefined) void started.then(() => client.dispose()).catch(() => undefined); // if it starts after all
      else if (this.#client === client) this.#set({ kind: "running", version, source: server.source });
    } catch (error) {
      this.#log.main.error(`the server did not start: ${error instanceof Error ? error.message : String(error)}`);
      this.#crashed(client);
    }
  }

  async #end(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    try {
      await client?.dispose();
    } catch (error) {
      this.#log.main.warn(`the server did not end by itself: ${String(error)}`);
    }
  }

  #heard(client: Connection, status: EngineStatus): void {
    if (this.#client !== client) return;
    this.#engine = status;
    this.#changed.fire();
  }

  #crashed(client: Connection): void {
    if (this.#client !== client || this.#disposed) return; // it was ended, or this has been said already
    this.#client = undefined;
    client.dispose().catch(() => undefined);
    const wait = this.#backoff.crashed(Date.now());
    if (wait === undefined) {
      const message = `the server has crashed ${this.#backoff.crashes} times: the log says why`;
      this.#log.main.error(message);
      this.#set({ kind: "failed", message });
      this.#reports.gaveUp(this.#backoff.crashes);
      return;
    }
    this.#log.main.warn(`the server has ended unexpectedly; starting it again in ${wait / 1000} s`);
    this.#set({ kind: "starting" });
    this.#timer = setTimeout(() => void this.#again(), wait);
  }

  #set(state: ServerState): void {
    this.#state = state;
    if (state.kind !== "running") this.#engine = undefined;
    void vscode.commands.executeCommand("setContext", RUNNING, state.kind === "running");
    if (!this.#disposed) this.#changed.fire();
  }
}
