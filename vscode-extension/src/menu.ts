/** The menu behind the status item. */

import * as vscode from "vscode";
import { appearance } from "./appearance.ts";
import type { Situation } from "./state.ts";

export interface Entry {
  readonly label: string;
  readonly command: string;
}

/** VS Code's own commands, of which older versions have not all. */
const SUGGEST = "editor.action.inlineSuggest.trigger";
const SNOOZE = "editor.action.inlineSuggest.snooze";
const WAKE = "editor.action.inlineSuggest.cancelSnooze";

/** Return what can be done in a situation, the likeliest first. `known`: the commands of this editor. */
export function entries(situation: Situation, known: readonly string[]): readonly Entry[] {
  const { server, enabled, language, disabledLanguages } = situation;
  const off = language !== undefined && disabledLanguages.includes(language);
  const ready = server.kind === "running" && enabled && language !== undefined && !off;
  const list: (Entry | undefined)[] = [
    server.kind === "missing" ? { label: "$(cloud-download) Install the server", command: "treeline.installServer" } : undefined,
    {
      label: enabled ? "$(debug-pause) Pause suggestions" : "$(play) Resume suggestions",
      command: "treeline.toggle",
    },
    language === undefined
      ? undefined
      : {
          label: off ? `$(play) Resume suggestions for ${language}` : `$(circle-slash) No suggestions for ${language}`,
          command: "treeline.toggleLanguage",
        },
    ready ? { label: "$(lightbulb) Suggest here, now", command: SUGGEST } : undefined,
    { label: "$(bell-slash) Snooze suggestions, of all extensions", command: SNOOZE },
    { label: "$(bell) End the snooze", command: WAKE },
    { label: "$(question) Why no suggestion?", command: "treeline.explain" },
    { label: "$(graph) Show statistics", command: "treeline.showStatistics" },
    { label: "$(server-environment) Pick a model", command: "treeline.pickModel" },
    { label: "$(output) Show logs", command: "treeline.showLogs" },
    { label: "$(debug-restart) Restart the server", command: "treeline.restart" },
    { label: "$(gear) Settings", command: "treeline.openSettings" },
    { label: "$(book) First steps", command: "treeline.openWalkthrough" },
  ];
  const here = (command: string): boolean => command.startsWith("treeline.") || known.includes(command);
  return list.filter((entry) => entry !== undefined).filter((entry) => here(entry.command));
}

/** Let the user choose, and do it. */
export async function showMenu(situation: Situation): Promise<void> {
  const { summary, details } = appearance(situation);
  const placeHolder = situation.server.kind === "missing" ? "" : details.slice(0, 3).join(" · ");
  const list = entries(situation, await vscode.commands.getCommands(true));
  const chosen = await vscode.window.showQuickPick([...list], { title: `Treeline: ${summary}`, placeHolder });
  if (chosen) await vscode.commands.executeCommand(chosen.command);
}
