// A session of the reference implementation's client with the server whose command line is given.
// Prints what came back, one JSON object; a request that never ends or fails otherwise ends this with an error.
"use strict";
const { spawn } = require("node:child_process");
const lsp = require("vscode-languageserver-protocol/node");

const [command, ...args] = process.argv.slice(2);
const uri = "file:///nowhere/e2e.py";
const seen = { statuses: [], configuration: 0, errors: [], logged: "" };

function start() {
  const server = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] });
  server.stderr.on("data", (data) => (seen.logged += data));
  const exited = new Promise((resolve) => server.on("exit", resolve));
  const reader = new lsp.StreamMessageReader(server.stdout);
  const connection = lsp.createProtocolConnection(reader, new lsp.StreamMessageWriter(server.stdin));
  connection.onError(([error]) => seen.errors.push(String(error)));
  connection.onUnhandledNotification((message) => seen.errors.push(`unhandled ${message.method}`));
  return { connection, exited };
}

async function main() {
  const { connection, exited } = start();
  const ready = new Promise((resolve) =>
    connection.onNotification("treeline/status", (status) => {
      seen.statuses.push(status);
      if (status.state === "ready") resolve();
    }),
  );
  connection.onRequest(lsp.ConfigurationRequest.type, (params) => {
    seen.configuration += 1;
    return params.items.map(() => ({ debounceMs: 0, prefetch: false }));
  });
  connection.listen();

  seen.initialize = await connection.sendRequest(lsp.InitializeRequest.type, {
    processId: process.pid,
    rootUri: null,
    workspaceFolders: null,
    capabilities: {
      general: { positionEncodings: [lsp.PositionEncodingKind.UTF16] },
      textDocument: { inlineCompletion: {} },
      notebookDocument: { synchronization: {} },
      workspace: { configuration: true },
    },
  });
  await connection.sendNotification(lsp.InitializedNotification.type, {});
  await ready;

  const textDocument = lsp.TextDocumentItem.create(uri, "python", 1, "text = '😀'\n");
  await connection.sendNotification(lsp.DidOpenTextDocumentNotification.type, { textDocument });
  const ask = (line, character, triggerKind, token) =>
    connection.sendRequest(
      lsp.InlineCompletionRequest.type,
      { textDocument: { uri }, position: { line, character }, context: { triggerKind } },
      token,
    );
  const change = (version, range, text) =>
    connection.sendNotification(lsp.DidChangeTextDocumentNotification.type, {
      textDocument: { uri, version },
      contentChanges: [{ range, text }],
    });
  seen.invoked = await ask(0, 11, lsp.InlineCompletionTriggerKind.Invoked);
  seen.isItem = seen.invoked.items.every((item) => lsp.Range.is(item.range) && lsp.Command.is(item.command));
  await change(2, lsp.Range.create(1, 0, 1, 0), "more = ");
  seen.automatic = await ask(1, 7, lsp.InlineCompletionTriggerKind.Automatic);

  await change(3, lsp.Range.create(1, 0, 1, 7), "slow = ");
  const source = new lsp.CancellationTokenSource();
  const slow = ask(1, 7, lsp.InlineCompletionTriggerKind.Invoked, source.token);
  setTimeout(() => source.cancel(), 50);
  seen.cancelled = await slow.then(() => "answered", (error) => error.code);

  const codeOf = (promise) => promise.then(() => "answered", (error) => error.code);
  seen.unknown = await codeOf(connection.sendRequest("textDocument/brew", {}));
  seen.undecodable = await codeOf(connection.sendRequest("textDocument/inlineCompletion", { position: 1 }));
  seen.explained = await connection.sendRequest(lsp.ExecuteCommandRequest.type, {
    command: "treeline.server.explain",
    arguments: [],
  });
  seen.afterClose = await connection
    .sendNotification(lsp.DidCloseTextDocumentNotification.type, { textDocument: { uri } })
    .then(() => ask(0, 0, lsp.InlineCompletionTriggerKind.Invoked));
  seen.shutdown = await connection.sendRequest(lsp.ShutdownRequest.type);
  seen.afterShutdown = await codeOf(ask(0, 0, lsp.InlineCompletionTriggerKind.Invoked));
  await connection.sendNotification(lsp.ExitNotification.type);
  seen.exit = await exited;
  process.stdout.write(JSON.stringify(seen));
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\nserver: ${seen.logged}\n`);
  process.exit(1);
});
