/** What became of suggestions in this session, as a page. */

import { spelled } from "./appearance.ts";
import type { EngineStatus } from "./state.ts";

/** What the server counts. */
export interface Statistics {
  readonly requests: Readonly<Record<string, number>>;
  readonly shown: number;
  readonly accepted: number;
  readonly acceptedInPart: number;
  readonly charactersSaved: number;
  readonly delayMs: number;
  readonly firstTextMs: number;
  readonly status: EngineStatus;
}

type Row = readonly [string, string];

/** Return the figures, as rows of a name and a value. */
export function figures(statistics: Statistics): readonly Row[] {
  const { shown, accepted, acceptedInPart, charactersSaved, delayMs, firstTextMs, status } = statistics;
  const taken = Math.min(accepted + acceptedInPart, shown); // older servers count each part
  return [
    ["Characters accepted", String(charactersSaved)],
    ["Suggestions shown", String(shown)],
    ["Accepted whole", String(accepted)],
    ["Accepted in part", String(acceptedInPart)],
    ["Accepted of those shown", shown ? `${taken} of ${shown} (${Math.round((100 * taken) / shown)}%)` : "none yet"],
    ["Until the first text of the model", firstTextMs ? `${firstTextMs} ms` : "not yet known"],
    ["Wait after a keystroke", `${delayMs} ms`],
    ["Model", status.model || "not yet known"],
    ["Speed of the last completion", status.tokensPerSecond === null ? "-" : `${status.tokensPerSecond} tokens/s`],
    ["Accepted per pass in it", status.acceptedPerPass === null ? "-" : String(status.acceptedPerPass)],
    ["Engine's memory", status.engineMemoryBytes === null ? "-" : spelled(status.engineMemoryBytes)],
  ];
}

/** Return the page. It runs no script and loads nothing. */
export function page(statistics: Statistics, nonce: string): string {
  const outcomes = Object.entries(statistics.requests).sort(([, one], [, other]) => other - one);
  const counts = outcomes.map(([reason, count]): Row => [reason, String(count)]);
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'nonce-${nonce}'">
<title>Treeline statistics</title>
<style nonce="${nonce}">
body { font-family: var(--vscode-font-family); color: var(--vscode-foreground); padding: 0 1.5em 1.5em; max-width: 46em; }
h1 { font-size: 1.4em; font-weight: 600; } h2 { font-size: 1.1em; font-weight: 600; margin-top: 1.8em; }
table { border-collapse: collapse; width: 100%; }
td { padding: 0.35em 0; border-bottom: 1px solid var(--vscode-widget-border, #8884); }
td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
p { color: var(--vscode-descriptionForeground); }
</style>
</head>
<body>
<h1>Treeline, since this window's server was started</h1>
${rows(figures(statistics))}
<h2>How requests ended</h2>
${counts.length ? rows(counts) : "<p>There were none yet.</p>"}
<p>These figures stay on this machine.</p>
</body>
</html>
`;
}

function rows(list: readonly Row[]): string {
  const cells = list.map(([name, value]) => `<tr><td>${escaped(name)}</td><td>${escaped(value)}</td></tr>`);
  return `<table>\n${cells.join("\n")}\n</table>`;
}

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
