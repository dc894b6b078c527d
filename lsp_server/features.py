"""The messages that the server answers, each in a few lines."""

from __future__ import annotations

import hashlib
from typing import Any, cast

from lsprotocol import types

from lsp_server.ask import Item
from lsp_server.documents import Snapshot, to_units
from lsp_server.protocol import Arrived
from lsp_server.server import TreelineServer

ACCEPTED = "treeline.server.accepted"


def register(server: TreelineServer) -> None:
    """Let `server` answer."""
    _lifecycle(server)
    _documents(server)
    _commands(server)

    @server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
    async def inline_completion(arrived: Arrived) -> types.InlineCompletionList:
        context = arrived.params.context
        invoked = context.trigger_kind == types.InlineCompletionTriggerKind.Invoked
        answer = await server.complete(arrived, invoked, context.selected_completion_info)
        snapshot = cast("Snapshot", arrived.snapshot)
        return types.InlineCompletionList([_inline_item(item, snapshot) for item in answer.items])


def _inline_item(item: Item, snapshot: Snapshot) -> types.InlineCompletionItem:
    command = types.Command("Treeline: accepted", ACCEPTED, arguments=[snapshot.uri])
    return types.InlineCompletionItem(insert_text=item.text, range=_range(item, snapshot), command=command)


def _range(item: Item, snapshot: Snapshot) -> types.Range:
    line = snapshot.lines[snapshot.line]
    start, end = (to_units(line, column, snapshot.encoding) for column in (item.start, item.end))
    return types.Range(types.Position(snapshot.line, start), types.Position(snapshot.line, end))


def _completion(server: TreelineServer) -> None:
    """Answer `textDocument/completion` too: for editors that know no inline completion."""

    @server.feature(types.TEXT_DOCUMENT_COMPLETION, types.CompletionOptions())
    async def completion(arrived: Arrived) -> types.CompletionList:
        context = arrived.params.context
        asked = context is None or context.trigger_kind == types.CompletionTriggerKind.Invoked
        snapshot = cast("Snapshot", arrived.snapshot)
        answer = await server.complete(arrived, invoked=asked and not server.typed_just_now(snapshot))
        items = [_menu_item(item, snapshot) for item in answer.items]
        return types.CompletionList(is_incomplete=True, items=items)


def _menu_item(item: Item, snapshot: Snapshot) -> types.CompletionItem:
    first, _, rest = item.text.lstrip().partition("\n")
    typed = snapshot.lines[snapshot.line][item.start : snapshot.column]
    return types.CompletionItem(
        label=first.strip() + (" …" if rest.strip() else ""),
        kind=types.CompletionItemKind.Snippet,
        detail="Treeline",
        documentation=item.text,
        filter_text=typed + item.text[len(typed) :],
        insert_text_format=types.InsertTextFormat.PlainText,
        insert_text_mode=types.InsertTextMode.AsIs,  # it is indented already
        text_edit=types.TextEdit(_range(item, snapshot), item.text),
    )


# --- the session -----------------------------------------------------------------------------------------------------


def _lifecycle(server: TreelineServer) -> None:
    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        server.begin(params)
        if server.options.completion_fallback:
            _completion(server)

    @server.feature(types.INITIALIZED)
    async def initialized(_: types.InitializedParams) -> None:
        server.ready(server.process_id)
        await server.pull_settings()

    @server.feature(types.SHUTDOWN)
    def shutdown(_: None) -> None:
        server.completer.stop()

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def configuration(params: types.DidChangeConfigurationParams) -> None:
        if params.settings:
            server.configure(params.settings)
        else:
            await server.pull_settings()

    @server.feature(types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)
    def folders(_: types.DidChangeWorkspaceFoldersParams) -> None:
        server.look_at_folders(server.exclusions.trusted)

    @server.feature("treeline/trusted")
    def trusted(_: Any) -> None:
        server.look_at_folders(trusted=True)


# --- documents -------------------------------------------------------------------------------------------------------


def _documents(server: TreelineServer) -> None:
    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def did_open(params: types.DidOpenTextDocumentParams) -> None:
        server.opened(params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def did_change(params: types.DidChangeTextDocumentParams) -> None:
        server.changed(params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def did_save(params: types.DidSaveTextDocumentParams) -> None:
        server.saved(params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def did_close(params: types.DidCloseTextDocumentParams) -> None:
        server.closed(params.text_document.uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def notebook_open(params: types.DidOpenNotebookDocumentParams) -> None:
        for cell in params.cell_text_documents:
            server.opened(cell.uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CHANGE)
    def notebook_change(params: types.DidChangeNotebookDocumentParams) -> None:
        cells = params.change.cells
        for opened in cells.structure.did_open or [] if cells and cells.structure else []:
            server.opened(opened.uri)
        for closed in cells.structure.did_close or [] if cells and cells.structure else []:
            server.closed(closed.uri)
        for changed in cells.text_content or [] if cells else []:
            server.changed(changed.document.uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def notebook_close(params: types.DidCloseNotebookDocumentParams) -> None:
        for cell in params.cell_text_documents:
            server.closed(cell.uri)


# --- commands --------------------------------------------------------------------------------------------------------


def _commands(server: TreelineServer) -> None:
    @server.command(ACCEPTED)
    def accepted(*_: Any) -> None:
        """An editor says that a suggestion was accepted; the edit that follows is what counts."""

    @server.command("treeline.server.toggle")
    def toggle(*given: Any) -> bool:
        return server.toggle(given[0] if given and isinstance(given[0], str) else "")

    @server.command("treeline.server.explain")
    def explain(*given: Any) -> dict[str, Any]:
        uri = given[0] if given and isinstance(given[0], str) else ""
        latest = server.outcomes.latest(uri)
        return {
            "latest": latest.as_json() if latest else None,
            "message": latest.as_line() if latest else "nothing has been asked yet",
            "recent": [each.as_json() for each in server.outcomes.recent],
        }

    @server.command("treeline.server.restart")
    async def restart(*_: Any) -> None:
        server.completer.stop()
        await server.engine.restart()

    @server.command("treeline.server.digest")
    def digest(*given: Any) -> dict[str, Any] | None:
        """Say which text the server has of a document, for a client that wants to know whether it is its own."""
        document = server.documents.open_document(given[0]) if given and isinstance(given[0], str) else None
        if document is None:
            return None
        sha256 = hashlib.sha256(document.source.encode("utf-8", "surrogatepass")).hexdigest()
        return {"version": document.version, "lines": len(document.lines), "sha256": sha256}

    @server.command("treeline.server.statistics")
    def statistics(*_: Any) -> dict[str, Any]:
        counts, pace = server.feedback.counts, server.completer.pace
        return {
            "requests": dict(server.outcomes.counts),
            "shown": counts.shown,
            "accepted": counts.accepted,
            "acceptedInPart": counts.accepted_in_part,
            "charactersSaved": counts.characters,
            "delayMs": round(1000 * pace.delay(), 1),
            "firstTextMs": round(1000 * pace.cost, 1),
            "status": server.status.as_json(),
        }
