/** What the user may set. */

import * as vscode from "vscode";

export const SECTION = "treeline";

/** The settings that the server knows; the others are this extension's own. */
export const SERVER_SETTINGS = [
  "enabled",
  "disabledLanguages",
  "debounceMs",
  "maxTokens",
  "deadlineMs",
  "maxCandidates",
  "minConfidence",
  "prefetch",
  "workspaceContext",
  "completionFallback",
] as const;

function section(): vscode.WorkspaceConfiguration {
  return vscode.workspace.getConfiguration(SECTION);
}

/** Return what the server is told. */
export function serverSettings(): Record<string, unknown> {
  const settings = section();
  const told = Object.fromEntries(SERVER_SETTINGS.map((name) => [name, settings.get(name) ?? null]));
  return { ...told, disabledLanguages: disabledLanguages() };
}

/** Return the command that the user has set, or an empty list. */
export function serverCommand(): readonly string[] {
  return words(section().get("serverCommand"));
}

export function enabled(): boolean {
  return section().get("enabled", true);
}

export function disabledLanguages(): readonly string[] {
  return words(section().get("disabledLanguages"));
}

/** Return a list of words, also where a single one was written instead of a list: the editor lets that pass. */
function words(value: unknown): readonly string[] {
  const list: readonly unknown[] = Array.isArray(value) ? value : [value];
  return list.filter((each) => typeof each === "string" && each.trim() !== "") as string[];
}

/** Whether VS Code itself shows suggestions in a document, or in any. */
export function shown(document: vscode.TextDocument | undefined): boolean {
  return vscode.workspace.getConfiguration("editor", document).get("inlineSuggest.enabled", true);
}

/** Switch suggestions on or off, where that is set now. */
export async function toggle(): Promise<void> {
  await write("enabled", !enabled());
}

/** Switch suggestions in one language on or off, where that is set now. */
export async function toggleLanguage(language: string): Promise<void> {
  const languages = disabledLanguages();
  const others = languages.filter((each) => each !== language);
  await write("disabledLanguages", others.length < languages.length ? others : [...languages, language]);
}

/** Write a setting for the workspace if the workspace decides it, else for the user.
 *
 * What is set on a remote machine is stronger than what an extension can write for the user: the workspace is then stronger.
 */
async function write(name: string, value: unknown): Promise<void> {
  const settings = section();
  const set = settings.inspect(name) as { workspaceValue?: unknown; globalRemoteValue?: unknown } | undefined;
  const forWorkspace = set?.workspaceValue !== undefined || set?.globalRemoteValue !== undefined;
  await settings.update(name, value, forWorkspace ? vscode.ConfigurationTarget.Workspace : vscode.ConfigurationTarget.Global);
}
