/** One connection to one process of the server. */

import * as vscode from "vscode";
import {
  CloseAction,
  ErrorAction,
  LanguageClient,
  RevealOutputChannelOn,
  type LanguageClientOptions,
  type Middleware,
} from "vscode-languageclient/node";
import { copy, type Log } from "./log.ts";
import { startEnvironment, startFolder } from "./process.ts";
import type { Quiet } from "./quiet.ts";
import { SELECTOR } from "./selector.ts";
import type { ServerCommand } from "./serverCommand.ts";
import type { Handlers } from "./session.ts";
import { serverSettings } from "./settings.ts";

class Client extends LanguageClient {
  /** Say what goes wrong in the log only: the library shows a message for each start that fails. */
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }

  /** End the process too where it has not answered yet: the library lets it be for a while. */
  override async dispose(timeout?: number): Promise<void> {
    const server = this.serverProcess;
    try {
      await super.dispose(timeout);
    } catch (error) {
      server?.kill();
      throw error;
    }
  }
}

/** Return a client for `server`, not started yet. */
export function createClient(server: ServerCommand, log: Log, quiet: Quiet, handlers: Handlers): LanguageClient {
  const options: LanguageClientOptions = {
    documentSelector: [...SELECTOR],
    outputChannel: log.main,
    traceOutputChannel: log.trace,
    revealOutputChannelOn: RevealOutputChannelOn.Never,
    initializationOptions: () => ({ ...serverSettings(), trusted: vscode.workspace.isTrusted }),
    initializationFailedHandler: () => false,
    errorHandler: {
      error: () => ({ action: ErrorAction.Continue, handled: true }),
      closed: () => {
        handlers.closed();
        return { action: CloseAction.DoNotRestart, handled: true };
      },
    },
    stdioOptions: { stdout: () => undefined, stderr: copy },
    middleware: middleware(quiet),
  };
  const surroundings = { cwd: startFolder(), env: startEnvironment() }; // by itself, the library takes the workspace's folder
  const run = { command: server.command, args: [...server.args], options: surroundings };
  const client = new Client("treeline", "Treeline", run, options);
  client.onNotification("treeline/status", handlers.status);
  return client;
}

function middleware(quiet: Quiet): Middleware {
  return {
    didOpen: async (document, next) => {
      if (!quiet.opened(document)) await next(document);
    },
    didChange: async (event, next) => {
      if (!quiet.has(event.document)) await next(event);
    },
    didSave: async (document, next) => {
      if (!quiet.has(document)) await next(document);
    },
    didClose: async (document, next) => {
      if (!quiet.closed(document)) await next(document);
    },
    provideInlineCompletionItems: (document, position, context, token, next) =>
      quiet.has(document) ? undefined : next(document, position, context, token),
    workspace: {
      // the server knows its own settings only
      configuration: (params) => params.items.map(() => serverSettings()),
    },
  };
}
