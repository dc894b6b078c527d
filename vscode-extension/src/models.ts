/** Picks the model that the engine runs, for all editors of this user. */

import * as os from "node:os";
import * as vscode from "vscode";
import type { Log } from "./log.ts";
import { choices, toDownload, type Choice, type Models } from "./modelList.ts";
import { isCancelled, lastWords, run } from "./process.ts";
import { commandLineOf } from "./serverCommand.ts";
import type { Session } from "./session.ts";

const POLL_MS = 5000;

/** Let the user choose a model; download it if it is not here; use it. */
export async function pickModel(session: Session, log: Log): Promise<void> {
  const treeline = commandLine(session);
  const looking = { location: vscode.ProgressLocation.Window, title: "Treeline: looking for models" };
  const [listed, suggested] = await vscode.window.withProgress(looking, () =>
    Promise.all([treeline(["models", "list", "--json"]), suggestion(treeline)]),
  );
  const models = JSON.parse(listed) as Models;
  const items = choices(models, os.totalmem(), session.engine?.model ?? "", suggested);
  const placeHolder = "The model for all editors of yours on this machine";
  const chosen = await vscode.window.showQuickPick([...items], { placeHolder, matchOnDescription: true });
  if (chosen === undefined) return;
  if (chosen.missing && !(await download(chosen, models, treeline, log))) return;
  log.main.info((await treeline(["models", "use", chosen.name])).trim());
  if (session.state.kind === "running") await session.execute("treeline.server.restart"); // else the next start reads it
}

/** Runs `treeline`; a status that is not in `expected` is an error. */
type CommandLine = (args: readonly string[], signal?: AbortSignal, expected?: readonly (number | null)[]) => Promise<string>;

function commandLine(session: Session): CommandLine {
  const found = session.command && commandLineOf(session.command);
  if (found === undefined) {
    throw new Error("the command `treeline` that belongs to this server was not found: use `treeline models` in a terminal");
  }
  return async (args, signal, expected = [0]) => {
    const result = await run(found.command, [...found.args, ...args], signal ? { signal } : {});
    if (!expected.includes(result.status)) throw new Error(lastWords("treeline", result));
    return result.stdout;
  };
}

/** The preset that `treeline doctor` finds suitable for this machine; status 1: the model in use is amiss, say. */
async function suggestion(treeline: CommandLine): Promise<string> {
  const answer = treeline(["doctor", "--json"], undefined, [0, 1]);
  return answer.then((text) => (JSON.parse(text) as { suggested: string }).suggested).catch(() => "");
}

/** Download a preset; say whether it is there now. What has arrived stays when it is cancelled. */
async function download(chosen: Choice, models: Models, treeline: CommandLine, log: Log): Promise<boolean> {
  const question = `Download ${chosen.name}? ${chosen.detail}`;
  if ((await vscode.window.showInformationMessage(question, { modal: true }, "Download")) !== "Download") return false;
  const title = `Treeline: downloading ${chosen.name}`;
  const options = { location: vscode.ProgressLocation.Notification, title, cancellable: true };
  return vscode.window.withProgress(options, async (progress, token) => {
    const abort = new AbortController();
    token.onCancellationRequested(() => abort.abort());
    const preset = models.presets.find((each) => each.name === chosen.name);
    let done = 0;
    let looking = false;
    const look = async (): Promise<void> => {
      const answer = await treeline(["models", "list", "--json"]);
      const missing = preset ? toDownload(JSON.parse(answer) as Models, preset) : 0;
      const percentage = Math.floor(100 * (1 - missing / chosen.missing));
      progress.report({ increment: Math.max(0, percentage - done), message: `${percentage}%` });
      done = Math.max(done, percentage);
    };
    const poll = setInterval(() => {
      if (looking) return; // the last look takes longer than that
      looking = true;
      void look().catch(() => undefined).finally(() => (looking = false));
    }, POLL_MS);
    try {
      log.main.info((await treeline(["models", "pull", chosen.name], abort.signal)).trim());
      return true;
    } catch (error) {
      if (isCancelled(error)) return false;
      throw error;
    } finally {
      clearInterval(poll);
    }
  });
}
