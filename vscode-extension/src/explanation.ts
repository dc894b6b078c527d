/** Why there was no suggestion. */

import type { Situation } from "./state.ts";

/** One request, as the server remembers it. */
export interface Outcome {
  readonly reason: string;
  readonly detail: string;
  readonly uri: string;
  readonly invoked: boolean;
  readonly characters: number;
  readonly stages: Readonly<Record<string, number>>;
}

export interface Explanation {
  readonly latest: Outcome | null;
  readonly recent: readonly Outcome[];
}

const MEANINGS: Readonly<Record<string, string>> = {
  answered: "the last request was answered by the model",
  "typed through": "the last request was answered from a suggestion made before",
  branch: "the last request was answered from what the model had verified beside a suggestion",
  prefetched: "the last request was answered from what had been computed ahead",
  nothing: "the model has nothing to say here",
  declined: "the small model was not sure enough for waking the big one",
  rule: "a keystroke here does not ask",
  superseded: "a newer request took its place",
  cancelled: "the editor took the request back",
  disabled: "suggestions are switched off",
  excluded: "Treeline does not read this file",
  loading: "the model is still loading",
  "engine error": "the engine has failed",
  "unknown document": "the server does not know this document",
};

/** Return a sentence for a person about the latest request. */
export function sentence({ latest }: Explanation): string {
  if (latest === null) return "Nothing has been asked here yet: type something, and pause.";
  const meaning = MEANINGS[latest.reason] ?? latest.reason;
  const detail = latest.detail && latest.detail !== meaning ? ` (${latest.detail})` : "";
  return `${meaning.charAt(0).toUpperCase()}${meaning.slice(1)}${detail}.`;
}

/** Return what keeps suggestions away as things are, if anything does: the last request may be from before that. */
export function obstacle(situation: Situation, large: boolean): string | undefined {
  const { server, engine, language, disabledLanguages } = situation;
  if (server.kind === "missing") return "The server was not found.";
  if (server.kind === "failed") return "The server has crashed too often.";
  if (!situation.enabled) return "Suggestions are paused: Toggle Suggestions switches them on again.";
  if (!situation.shown) return "VS Code shows no suggestions: its setting editor.inlineSuggest.enabled is off.";
  if (server.kind === "starting") return "The server is starting.";
  if (large) return "This file is very large: Treeline leaves it alone.";
  if (language === undefined) return "There is nothing to complete in this editor.";
  if (disabledLanguages.includes(language)) return `Suggestions are switched off for ${language}.`;
  if (engine?.state === "failed") return `The engine has failed: ${engine.message}`;
  if (engine?.state !== "ready") return "The model is still loading.";
  return undefined;
}

/** Return the recent requests as a Markdown table, the latest first. */
export function table({ recent }: Explanation): string {
  const rows = [...recent].reverse().map((each) => {
    const name = decodeURIComponent(each.uri.split("/").at(-1) ?? "").replaceAll("|", "\\|");
    const time = Math.max(0, ...Object.values(each.stages));
    const what = each.detail ? `${each.reason}: ${each.detail.replaceAll("|", "\\|")}` : each.reason;
    return `| ${name} | ${each.invoked ? "command" : "typing"} | ${what} | ${each.characters} | ${time.toFixed(0)} ms |`;
  });
  const head = ["| file | asked by | outcome | characters | time |", "| --- | --- | --- | ---: | ---: |"];
  return ["# Treeline: recent requests, the latest first", "", ...head, ...rows, ""].join("\n");
}
