/** The interpreter that is chosen in the Python extension. */

import * as vscode from "vscode";

const PATIENCE_MS = 10_000; // it may be busy with looking for interpreters

/** What is used of the Python extension's interface. */
interface PythonExtension {
  readonly environments?: {
    readonly onDidChangeActiveEnvironmentPath?: vscode.Event<unknown>;
    getActiveEnvironmentPath(resource?: vscode.Uri): { readonly path: string };
    resolveEnvironment(
      path: { readonly path: string },
    ): Promise<{ readonly executable: { readonly uri?: vscode.Uri | undefined } } | undefined>;
  };
}

export class Interpreter implements vscode.Disposable {
  readonly #changed = new vscode.EventEmitter<void>();
  readonly onDidChange = this.#changed.event;
  #listening: vscode.Disposable | undefined;

  /** Return its path, or nothing. In Restricted Mode that is never asked: the folder may have brought it along. */
  async path(patienceMs = PATIENCE_MS): Promise<string | undefined> {
    if (!vscode.workspace.isTrusted) return undefined;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => (timer = setTimeout(() => resolve(undefined), patienceMs)));
    try {
      return await Promise.race([this.#ask(), late]);
    } catch {
      return undefined; // another extension's failure is no reason to have no suggestions
    } finally {
      clearTimeout(timer);
    }
  }

  async #ask(): Promise<string | undefined> {
    const extension = vscode.extensions.getExtension<PythonExtension>("ms-python.python");
    const environments = (await extension?.activate())?.environments;
    this.#listening ??= environments?.onDidChangeActiveEnvironmentPath?.(() => this.#changed.fire());
    const active = environments?.getActiveEnvironmentPath(vscode.workspace.workspaceFolders?.[0]?.uri);
    return active && (await environments?.resolveEnvironment(active))?.executable.uri?.fsPath;
  }

  dispose(): void {
    this.#listening?.dispose();
    this.#changed.dispose();
  }
}
