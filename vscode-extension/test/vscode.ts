/** As much of the editor's module as the tests' subjects use. What it is told can be looked at. */

type Listener<T> = (value: T) => void;

export class EventEmitter<T> {
  #listeners: Listener<T>[] = [];
  readonly event = (listener: Listener<T>) => {
    this.#listeners.push(listener);
    return { dispose: () => undefined };
  };
  fire(value: T): void {
    for (const listener of this.#listeners) listener(value);
  }
  dispose(): void {
    this.#listeners = [];
  }
}

/** Commands that were run, the first word being the command. */
export const executed: unknown[][] = [];
export const commands = {
  getCommands: () => Promise.resolve(["editor.action.inlineSuggest.trigger", "editor.action.inlineSuggest.snooze"]),
  executeCommand: (...words: unknown[]) => {
    executed.push(words);
    return Promise.resolve();
  },
};

/** Settings by their full names: the user's, a remote machine's, the workspace's, each stronger than the one before. */
export const stored = {
  user: new Map<string, unknown>(),
  machine: new Map<string, unknown>(),
  workspace: new Map<string, unknown>(),
};
export const ConfigurationTarget = { Global: 1, Workspace: 2 };
export const workspace = {
  workspaceFolders: undefined,
  isTrusted: true,
  getConfiguration: (section: string) => ({
    get: (name: string, otherwise?: unknown) => {
      const key = `${section}.${name}`;
      return stored.workspace.get(key) ?? stored.machine.get(key) ?? stored.user.get(key) ?? otherwise;
    },
    inspect: (name: string) => ({
      workspaceValue: stored.workspace.get(`${section}.${name}`),
      globalRemoteValue: stored.machine.get(`${section}.${name}`),
    }),
    update: (name: string, value: unknown, target: number) => {
      (target === ConfigurationTarget.Workspace ? stored.workspace : stored.user).set(`${section}.${name}`, value);
      return Promise.resolve();
    },
  }),
};

/** The extension for Python, if there is one. */
export const extensions = { python: undefined as unknown, getExtension: () => extensions.python };

export const ProgressLocation = { Window: 10, Notification: 15 };

export const window = {
  /** Messages that were shown, with their buttons. */
  shown: [] as string[][],
  /** What the next question is answered with, by the label. */
  answer: undefined as string | undefined,
  showWarningMessage: (...words: string[]) => {
    window.shown.push(words);
    return Promise.resolve(words.find((word) => word === window.answer));
  },
  withProgress: (_: unknown, task: () => Promise<unknown>) => task(),
  createOutputChannel: (name: string) => ({ name, lines: [] as string[] }),
  showQuickPick: (items: { label: string }[]) =>
    Promise.resolve(items.find((item) => window.answer !== undefined && item.label.includes(window.answer))),
};
