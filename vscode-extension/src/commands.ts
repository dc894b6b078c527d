/** What the user can tell Treeline to do. */

import * as vscode from "vscode";
import type { Environment } from "./environment.ts";
import { obstacle, sentence, table, type Explanation } from "./explanation.ts";
import { install } from "./installer.ts";
import type { Log } from "./log.ts";
import { showMenu } from "./menu.ts";
import { pickModel } from "./models.ts";
import type { Quiet } from "./quiet.ts";
import { openSample } from "./sample.ts";
import type { Session } from "./session.ts";
import * as settings from "./settings.ts";
import type { Situation } from "./state.ts";
import type { Statistics } from "./statistics.ts";
import { StatisticsPanel } from "./statisticsPanel.ts";

/** What commands work on. */
export interface Parts {
  readonly extension: string;
  readonly session: Session;
  readonly environment: Environment;
  readonly log: Log;
  readonly quiet: Quiet;
  readonly situation: () => Situation;
}

/** Register all commands. */
export function registerCommands(parts: Parts): vscode.Disposable {
  const { extension, session, log, situation } = parts;
  const panel = new StatisticsPanel();
  const commands: Readonly<Record<string, () => unknown>> = {
    restart: () => session.restart(),
    showLogs: () => log.main.show(),
    toggle: () => settings.toggle(),
    toggleLanguage: () => toggleLanguage(),
    pickModel: () => pickModel(session, log),
    explain: () => explain(parts),
    showStatistics: () => showStatistics(session, panel),
    showMenu: () => showMenu(situation()),
    installServer: () => installServer(parts),
    openSample: () => openSample(),
    openSettings: () => vscode.commands.executeCommand("workbench.action.openSettings", `@ext:${extension}`),
    openWalkthrough: () => openWalkthrough(parts),
  };
  const registered = Object.entries(commands).map(([name, action]) =>
    vscode.commands.registerCommand(`treeline.${name}`, () => guarded(action, log)),
  );
  return vscode.Disposable.from(panel, ...registered);
}

/** Run an action; what goes wrong is one line for the user. */
async function guarded(action: () => unknown, log: Log): Promise<void> {
  try {
    await action();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    log.main.error(message);
    if ((await vscode.window.showErrorMessage(`Treeline: ${message}`, "Show Logs")) !== undefined) log.main.show();
  }
}

async function openWalkthrough({ extension, session }: Parts): Promise<void> {
  await vscode.commands.executeCommand("workbench.action.openWalkthrough", `${extension}#firstSteps`, false);
  await session.announce();
}

async function toggleLanguage(): Promise<void> {
  const language = vscode.window.activeTextEditor?.document.languageId;
  if (language === undefined) throw new Error("open a file of the language first");
  await settings.toggleLanguage(language);
}

async function explain({ session, quiet, situation }: Parts): Promise<void> {
  const document = vscode.window.activeTextEditor?.document;
  const reason = obstacle(situation(), document !== undefined && quiet.has(document));
  if (reason !== undefined) {
    void vscode.window.showInformationMessage(`Treeline: ${reason}`);
    return;
  }
  const explanation = await session.execute<Explanation>("treeline.server.explain", document?.uri.toString() ?? "");
  const more = "Recent Requests";
  if ((await vscode.window.showInformationMessage(`Treeline: ${sentence(explanation)}`, more)) !== more) return;
  const content = table(explanation);
  await vscode.window.showTextDocument(await vscode.workspace.openTextDocument({ language: "markdown", content }));
}

async function showStatistics(session: Session, panel: StatisticsPanel): Promise<void> {
  panel.show(await session.execute<Statistics>("treeline.server.statistics"));
}

async function installServer({ environment, log, session }: Parts): Promise<void> {
  if (settings.serverCommand().length > 0) {
    throw new Error("the setting treeline.serverCommand names a server, so that no other one is used: empty it first");
  }
  if (!(await install(environment, log))) return;
  await environment.use();
  await session.restart();
  await environment.tidy(); // now that nothing of this window runs in the former one
}
