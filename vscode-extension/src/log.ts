/** Treeline's output channels: one for what happens, one for the messages of the protocol. */

import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import * as vscode from "vscode";

export type Level = "trace" | "debug" | "info" | "warn" | "error";

export interface Log {
  readonly main: vscode.LogOutputChannel;
  /** Written when its level is set to Trace. */
  readonly trace: vscode.LogOutputChannel;
}

export function createLog(): Log {
  return {
    main: vscode.window.createOutputChannel("Treeline", { log: true }),
    trace: vscode.window.createOutputChannel("Treeline Trace", { log: true }),
  };
}

const LINE = /^\d\d:\d\d:\d\d (debug|info|warning|error|critical) (.*)$/;
const LEVELS: Readonly<Record<string, Level>> = { debug: "debug", info: "info", warning: "warn", error: "error", critical: "error" };

/** Return the level and the text of a line that the server wrote. */
export function parseLine(line: string): { level: Level; text: string } {
  const [, level = "", text = ""] = LINE.exec(line) ?? [];
  return { level: LEVELS[level] ?? "info", text: text || line };
}

/** Put what the server writes on standard error into a channel, each line at its own level. */
export function copy(input: Readable, channel: vscode.LogOutputChannel): void {
  createInterface({ input, crlfDelay: Infinity }).on("line", (line) => {
    const { level, text } = parseLine(line);
    channel[level](text);
  });
}
