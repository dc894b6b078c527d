/** Treeline in VS Code: finds the language server, starts it, and shows how it is. */

import * as path from "node:path";
import * as vscode from "vscode";
import { createClient } from "./client.ts";
import { registerCommands } from "./commands.ts";
import { Environment } from "./environment.ts";
import { offerHelp } from "./installer.ts";
import { createLog, type Log } from "./log.ts";
import { chosenPython } from "./pythonExtension.ts";
import { Quiet } from "./quiet.ts";
import { SELECTOR } from "./selector.ts";
import { Session, type Connect, type Reports } from "./session.ts";
import * as settings from "./settings.ts";
import type { Situation } from "./state.ts";
import { StatusItem } from "./statusItem.ts";

let session: Session | undefined;

export function activate(context: vscode.ExtensionContext): void {
  const log = createLog();
  const quiet = new Quiet();
  const environment = new Environment(context.globalStorageUri.fsPath, path.join(context.extensionPath, "server"));
  const places = async () => ({
    setting: settings.serverCommand(),
    ownPython: environment.python,
    chosenPython: await chosenPython(),
  });
  const connect: Connect = (server, handlers) => createClient(server, log, quiet, handlers);
  const { version } = context.extension.packageJSON as { version: string };
  const running = new Session(log, connect, places, reports(log), version);
  const item = new StatusItem();
  const situation = (): Situation => situationOf(running, quiet);
  const show = (): void => item.show(situation());
  session = running;
  const parts = { extension: context.extension.id, session: running, environment, log, quiet, situation };
  context.subscriptions.push(
    log.main,
    log.trace,
    item,
    running,
    registerCommands(parts),
    running.onDidChange(show),
    vscode.window.onDidChangeActiveTextEditor(show),
    vscode.workspace.onDidOpenTextDocument(show), // also when a document's language has been changed
    vscode.workspace.onDidChangeConfiguration((event) => void configured(event, running, show)),
    vscode.workspace.onDidGrantWorkspaceTrust(() => void trusted(running)),
  );
  show();
  void running.restart(); // not awaited: the editor has its own start to finish
}

export async function deactivate(): Promise<void> {
  await session?.stop();
}

function reports(log: Log): Reports {
  return {
    missing: (tried) => void offerHelp(tried),
    otherVersion: (server, extension, source) => {
      const text = `Treeline's server (from ${source}) has version ${server}, this extension ${extension}: update the older one.`;
      log.main.warn(text);
      void vscode.window.showWarningMessage(text);
    },
    gaveUp: (crashes) => {
      const text = `Treeline's server has crashed ${crashes} times and is not started again.`;
      void vscode.window.showErrorMessage(text, "Show Logs", "Restart").then((chosen) => {
        if (chosen === "Show Logs") log.main.show();
        if (chosen === "Restart") void vscode.commands.executeCommand("treeline.restart");
      });
    },
  };
}

function situationOf(running: Session, quiet: Quiet): Situation {
  const document = vscode.window.activeTextEditor?.document;
  const served = document !== undefined && !quiet.has(document) && vscode.languages.match([...SELECTOR], document) > 0;
  return {
    server: running.state,
    engine: running.engine,
    enabled: settings.enabled(),
    disabledLanguages: settings.disabledLanguages(),
    language: served ? document.languageId : undefined,
  };
}

async function configured(event: vscode.ConfigurationChangeEvent, running: Session, show: () => void): Promise<void> {
  if (!event.affectsConfiguration(settings.SECTION)) return;
  if (event.affectsConfiguration(`${settings.SECTION}.serverCommand`)) await running.restart();
  else await running.settingsChanged();
  show();
}

/** Settings and interpreters that were left out now count. */
async function trusted(running: Session): Promise<void> {
  if (running.state.kind === "running") await running.trusted();
  else await running.restart();
}
