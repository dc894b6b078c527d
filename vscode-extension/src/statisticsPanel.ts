/** The statistics in an editor of their own: one, which is brought up to date when it is asked for again. */

import { randomUUID } from "node:crypto";
import * as vscode from "vscode";
import { page, type Statistics } from "./statistics.ts";

export class StatisticsPanel implements vscode.Disposable {
  #panel: vscode.WebviewPanel | undefined;

  show(statistics: Statistics): void {
    if (this.#panel === undefined) {
      const panel = vscode.window.createWebviewPanel("treeline.statistics", "Treeline Statistics", vscode.ViewColumn.Active);
      panel.onDidDispose(() => (this.#panel = undefined));
      this.#panel = panel;
    } else {
      this.#panel.reveal();
    }
    this.#panel.webview.html = page(statistics, randomUUID());
  }

  dispose(): void {
    this.#panel?.dispose();
  }
}
