/** Installs the server, with progress, and says what to do where there is none. */

import * as vscode from "vscode";
import type { Environment } from "./environment.ts";
import type { Log } from "./log.ts";
import { isCancelled } from "./process.ts";
import { serverCommand } from "./settings.ts";

const INSTALL = "Install";
const SETTINGS = "Open Settings";
const LOGS = "Show Logs";

/** Say that there is no server; help with one click. */
export async function offerHelp(tried: readonly string[]): Promise<void> {
  const places = tried.length === 1 ? (tried[0] ?? "") : `${tried.length} places were tried`;
  const message = `Treeline's server was not found (${places}). Treeline can install it into an environment of its own.`;
  const chosen = await vscode.window.showErrorMessage(message, INSTALL, SETTINGS, LOGS);
  if (chosen === INSTALL) await vscode.commands.executeCommand("treeline.installServer");
  if (chosen === SETTINGS) await vscode.commands.executeCommand("treeline.openSettings");
  if (chosen === LOGS) await vscode.commands.executeCommand("treeline.showLogs");
}

/** Offer to install the server that came with the extension, in place of the one that is in use. */
export async function offerUpdate(message: string): Promise<void> {
  const chosen = await vscode.window.showWarningMessage(message, INSTALL);
  if (chosen === INSTALL) await vscode.commands.executeCommand("treeline.installServer");
}

/** Offer the server that came with the extension where another one is installed; remove what is left of former ones. */
export async function keepUp(environment: Environment, log: Log): Promise<void> {
  await environment.use();
  if (serverCommand().length === 0 && (await environment.outdated())) {
    const text = `Treeline's own environment holds ${environment.installed}, which is not the server that came with this extension.`;
    log.main.warn(text);
    void offerUpdate(text);
  }
  await environment.tidy();
}

/** Install the server; say whether it is there now. */
export async function install(environment: Environment, log: Log): Promise<boolean> {
  const title = "Treeline: installing the server (1.2 GB with PyTorch's CPU wheels, several GB with those for CUDA)";
  const options = { location: vscode.ProgressLocation.Notification, title, cancellable: true };
  return vscode.window.withProgress(options, async (progress, token) => {
    const abort = new AbortController();
    token.onCancellationRequested(() => abort.abort());
    const report = (line: string): void => {
      log.main.info(line);
      progress.report({ message: line.length > 80 ? `${line.slice(0, 79)}…` : line });
    };
    try {
      await environment.install({ signal: abort.signal, report });
      return true;
    } catch (error) {
      if (isCancelled(error)) return false;
      const reason = error instanceof Error ? error.message : String(error);
      log.main.error(`the installation has failed: ${reason}`);
      void vscode.window.showErrorMessage(`Treeline's server could not be installed: ${reason}`, LOGS).then((chosen) => {
        if (chosen === LOGS) log.main.show();
      });
      return false;
    }
  });
}
