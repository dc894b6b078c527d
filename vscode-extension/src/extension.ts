/** Treeline in VS Code: finds the language server, starts it, and shows how it is. */

import { homedir } from "node:os";
import * as path from "node:path";
import * as vscode from "vscode";
import { createClient } from "./client.ts";
import { registerCommands } from "./commands.ts";
import { Environment } from "./environment.ts";
import { INTERPRETER, OWN, SETTING, type Places } from "./finder.ts";
import { keepUp, offerHelp, offerUpdate } from "./installer.ts";
import { createLog, type Log } from "./log.ts";
import { Interpreter } from "./pythonExtension.ts";
import { Quiet } from "./quiet.ts";
import { SELECTOR } from "./selector.ts";
import { filledIn } from "./serverCommand.ts";
import { Session, type Connect, type Reports } from "./session.ts";
import * as settings from "./settings.ts";
import type { Situation } from "./state.ts";
import { StatusItem } from "./statusItem.ts";

let stop: () => Promise<unknown> = () => Promise.resolve();

export function activate(context: vscode.ExtensionContext): void {
  const log = createLog();
  const quiet = new Quiet();
  const environment = new Environment(context.globalStorageUri.fsPath, path.join(context.extensionPath, "server"));
  const interpreter = new Interpreter();
  const places = () => placesNow(environment, interpreter);
  const connect: Connect = (server, handlers) => createClient(server, log, quiet, handlers);
  const { version } = context.extension.packageJSON as { version: string };
  const running = new Session(log, connect, places, reports(log), version);
  const item = new StatusItem();
  const situation = (): Situation => situationOf(running, quiet);
  const show = (): void => item.show(situation());
  stop = () => Promise.all([running.stop(), environment.stop()]);
  const parts = { extension: context.extension.id, session: running, environment, log, quiet, situation };
  context.subscriptions.push(
    log.main,
    log.trace,
    item,
    running,
    interpreter,
    registerCommands(parts),
    running.onDidChange(show),
    interpreter.onDidChange(() => otherInterpreter(running)),
    vscode.window.onDidChangeActiveTextEditor(show),
    vscode.workspace.onDidOpenTextDocument(show), // also when a document's language has been changed
    vscode.workspace.onDidChangeConfiguration((event) => configured(event, running, show)),
    vscode.workspace.onDidGrantWorkspaceTrust(() => trusted(running)),
  );
  show();
  void running.restart(); // not awaited: the editor has its own start to finish
  void keepUp(environment, log);
}

export async function deactivate(): Promise<void> {
  await stop();
}

/** Return where a server may be, as things are now. */
function placesNow(environment: Environment, interpreter: Interpreter): Promise<Places> {
  const folder = vscode.workspace.isTrusted ? vscode.workspace.workspaceFolders?.[0]?.uri.fsPath : undefined;
  return Promise.resolve({
    setting: filledIn(settings.serverCommand(), { home: homedir(), folder }),
    ownPython: environment.python,
    chosenPython: () => interpreter.path(),
  });
}

function reports(log: Log): Reports {
  return {
    missing: (tried) => void offerHelp(tried),
    otherVersion: (server, extension, source) => {
      const text = `Treeline's server (from ${source}) has version ${server}, this extension ${extension}: update the older one.`;
      log.main.warn(text);
      if (source === SETTING) void vscode.window.showWarningMessage(text);
      else if (source !== OWN) void offerUpdate(text); // of its own environment, that has been said at the start
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
    shown: settings.shown(document),
    disabledLanguages: settings.disabledLanguages(),
    language: served ? document.languageId : undefined,
  };
}

function configured(event: vscode.ConfigurationChangeEvent, running: Session, show: () => void): void {
  if (!event.affectsConfiguration(settings.SECTION)) return;
  show();
  if (event.affectsConfiguration(`${settings.SECTION}.serverCommand`)) void running.restart();
  else void running.settingsChanged();
}

/** Settings and interpreters that were left out now count. */
function trusted(running: Session): void {
  if (running.state.kind === "running") void running.trusted();
  else void running.restart();
}

/** Another interpreter was chosen: it may have the server, or the one that runs may be the former one's. */
function otherInterpreter(running: Session): void {
  if (running.state.kind === "missing" || running.command?.source === INTERPRETER) void running.restart();
}
