/** The item in the status bar, and the one beside the language. */

import * as vscode from "vscode";
import { appearance, type Appearance, type Phase } from "./appearance.ts";
import { SELECTOR } from "./selector.ts";
import type { Situation } from "./state.ts";

const MENU = "treeline.showMenu";

export class StatusItem implements vscode.Disposable {
  readonly #bar = vscode.window.createStatusBarItem("treeline.status", vscode.StatusBarAlignment.Right, 100);
  readonly #language = vscode.languages.createLanguageStatusItem("treeline.language", [...SELECTOR]);
  #shown = "";

  constructor() {
    this.#bar.name = "Treeline";
    this.#bar.command = MENU;
    this.#language.name = "Treeline";
    this.#language.command = { title: "Menu", command: MENU };
    this.#bar.show();
  }

  /** Show how things are. */
  show(situation: Situation): void {
    const now = appearance(situation);
    const key = JSON.stringify(now);
    if (key === this.#shown) return;
    this.#shown = key;
    this.#bar.text = now.text;
    this.#bar.tooltip = tooltip(now);
    this.#bar.accessibilityInformation = { label: `Treeline: ${now.summary}`, role: "button" };
    this.#bar.backgroundColor =
      now.phase === "error" ? new vscode.ThemeColor("statusBarItem.errorBackground") : undefined;
    this.#language.text = `Treeline: ${now.summary}`;
    this.#language.detail = now.details[0] ?? "";
    this.#language.busy = now.phase === "busy" || now.phase === "starting";
    this.#language.severity = severity(now.phase);
  }

  dispose(): void {
    this.#bar.dispose();
    this.#language.dispose();
  }
}

function tooltip({ summary, details }: Appearance): vscode.MarkdownString {
  const text = new vscode.MarkdownString();
  text.appendMarkdown("**Treeline**: ").appendText(summary);
  for (const line of details) text.appendMarkdown("  \n").appendText(line);
  return text;
}

function severity(phase: Phase): vscode.LanguageStatusSeverity {
  if (phase === "error") return vscode.LanguageStatusSeverity.Error;
  return vscode.LanguageStatusSeverity.Information;
}
