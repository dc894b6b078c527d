/** What the status item says in a situation. */

import type { EngineStatus, Situation } from "./state.ts";

export type Phase = "starting" | "ready" | "busy" | "idle" | "paused" | "disabled" | "error";

export interface Appearance {
  readonly phase: Phase;
  readonly text: string;
  /** What is going on, in a few words. */
  readonly summary: string;
  /** Further lines of the tooltip. */
  readonly details: readonly string[];
}

const ICONS: Readonly<Record<Phase, string>> = {
  starting: "$(loading~spin)",
  ready: "$(lightbulb-sparkle)",
  busy: "$(sync~spin)",
  idle: "$(circle-outline)",
  paused: "$(debug-pause)",
  disabled: "$(circle-slash)",
  error: "$(error)",
};

/** Return how a situation looks. */
export function appearance(situation: Situation): Appearance {
  const { phase, summary, figure } = judge(situation);
  const text = [ICONS[phase], "Treeline", figure].filter(Boolean).join(" ");
  return { phase, text, summary, details: details(situation) };
}

interface Judgement {
  readonly phase: Phase;
  readonly summary: string;
  readonly figure?: string;
}

function judge({ server, engine, enabled, disabledLanguages, language }: Situation): Judgement {
  if (server.kind === "missing") return { phase: "error", summary: "the server was not found" };
  if (server.kind === "failed") return { phase: "error", summary: server.message };
  if (!enabled) return { phase: "paused", summary: "paused: suggestions are switched off" };
  if (server.kind === "starting" || engine === undefined) return { phase: "starting", summary: "starting the server" };
  if (engine.state === "failed") return { phase: "error", summary: engine.message };
  if (engine.state !== "ready") return loading(engine);
  if (language === undefined) return { phase: "idle", summary: "idle: nothing to complete in this editor" };
  if (disabledLanguages.includes(language)) return { phase: "disabled", summary: `disabled for ${language}` };
  return engine.busy ? { phase: "busy", summary: "the model is working" } : { phase: "ready", summary: "ready" };
}

function loading(engine: EngineStatus): Judgement {
  if (engine.total <= 0) return { phase: "starting", summary: "starting the engine" };
  const percentage = Math.floor((100 * engine.done) / engine.total);
  const summary = `loading ${engine.phase}: layer ${engine.done} of ${engine.total}`;
  return { phase: "starting", summary, figure: `${percentage}%` };
}

function details({ server, engine }: Situation): readonly string[] {
  if (server.kind === "missing") return server.tried;
  const lines: string[] = [];
  if (engine?.model) lines.push(`Model: ${engine.model}`);
  if (engine?.tokensPerSecond != null) lines.push(`Speed: ${engine.tokensPerSecond} tokens/s`);
  if (engine?.acceptedPerPass != null) lines.push(`Accepted per pass: ${engine.acceptedPerPass}`);
  if (engine?.engineMemoryBytes != null) lines.push(`Engine's memory: ${spelled(engine.engineMemoryBytes)}`);
  if (server.kind === "running") lines.push(`Server: ${server.version}, from ${server.source}`);
  return lines;
}

/** Return a size for a person. */
export function spelled(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`;
}
