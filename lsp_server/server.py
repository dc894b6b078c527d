"""The language server: what arrives from the editor, handed to those who know what to do with it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from engine.request import ContextFile
from lsp_server.ask import Answer, Ask
from lsp_server.completer import Completer
from lsp_server.context import ContextBuilder
from lsp_server.documents import Document, Documents, Snapshot, to_column
from lsp_server.engine_client import EngineClient
from lsp_server.exclusions import Exclusions
from lsp_server.feedback import Feedback
from lsp_server.options import SECTION, Options, read_options
from lsp_server.outcomes import Kind, Outcome, Outcomes
from lsp_server.protocol import Arrived, Protocol, make_converter
from lsp_server.refresher import Refresher
from lsp_server.source_text import SourceText
from lsp_server.status import Status
from lsp_server.view import view_of

logger = logging.getLogger(__name__)
PARENT_SECONDS = 3.0


class TreelineServer(LanguageServer):
    """One editor's server: its documents, its settings, and the parts that answer."""

    protocol: Protocol  # pyright: ignore[reportIncompatibleVariableOverride] - what protocol_cls makes

    def __init__(self, version: str, config_file: Path | None = None) -> None:
        """`config_file`: the user's configuration of the engine, if not the usual one."""
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - its further arguments are untyped
            "treeline",
            version,
            types.TextDocumentSyncKind.Incremental,
            types.NotebookDocumentSyncOptions([types.NotebookDocumentFilterWithNotebook(notebook="*")]),
            protocol_cls=Protocol,
            converter_factory=make_converter,
            max_workers=2,
        )
        self.options = Options()
        self.status = Status(self)
        self.outcomes = Outcomes()
        self.feedback = Feedback()
        self.engine = EngineClient(self.status.engine_changed, config_file)
        self.completer = Completer(self.engine, self.status.busy_changed, self.status.finished)
        self.exclusions = Exclusions([])
        self.context = ContextBuilder(self.exclusions)
        self.can_notify = False
        self._reported: set[str] = set()
        self._unsaid: list[str] = []  # of these, what the client could not be told before the session had begun
        self._refresher = Refresher(self.context.refresh)
        self._watch: asyncio.Task[None] | None = None

    # --- the session -------------------------------------------------------------------------------------------------

    @property
    def documents(self) -> Documents:
        """The client's folders and open documents."""
        return cast("Documents", self.workspace)

    @property
    def shows_progress(self) -> bool:
        """Whether the client can show that work goes on."""
        window = self.client_capabilities.window
        return bool(window and window.work_done_progress)

    def begin(self, params: types.InitializeParams) -> None:
        """Take over what the client says of itself."""
        folders = list(params.workspace_folders or [])
        self.protocol.use(Documents.like(self.workspace, folders))
        given: object = params.initialization_options
        settings = dict(cast("dict[str, object]", given)) if isinstance(given, dict) else {}
        trusted = settings.pop("trusted", True) is not False
        self.configure(settings)
        self.look_at_folders(trusted)

    def look_at_folders(self, trusted: bool) -> None:
        """Begin anew with the folders that the workspace has now."""
        roots = [folder.uri for folder in self.documents.folders.values()] or [self.documents.root_uri]
        paths = [path for uri in roots if uri and (path := local_path(uri))]
        self.exclusions = Exclusions(paths, trusted)
        self.context.reconfigure(self.exclusions)

    def ready(self, parent: int | None) -> None:
        """The session has begun: start the engine, and end with the editor."""
        self.can_notify = True
        self._say()
        self.engine.connect()
        if parent and _alive(parent):  # a client in another container has a number that means nothing here
            self._watch = asyncio.create_task(_end_with(parent))

    def configure(self, settings: object) -> None:
        """Take settings; say once what is wrong with them."""
        old = self.options
        self.options, wrong = read_options(old, settings)
        self.completer.options = self.options
        if (old.max_tokens, old.min_confidence) != (self.options.max_tokens, self.options.min_confidence):
            self.completer.cache.clear()  # which would go on answering as it was told to before
        self.status.enabled_changed(self.options.enabled)
        for line in wrong:
            if line not in self._reported:
                self._reported.add(line)
                logger.warning("%s", line)
                self._unsaid.append(line)
        if self.can_notify:
            self._say()

    def _say(self) -> None:
        """Show the user what is wrong with the settings."""
        for line in self._unsaid:
            self.window_show_message(types.ShowMessageParams(types.MessageType.Warning, f"Treeline: {line}"))
        self._unsaid.clear()

    async def pull_settings(self) -> None:
        """Ask the client for its settings, if it has any to ask for."""
        workspace = self.client_capabilities.workspace
        if workspace and workspace.configuration:
            item = types.ConfigurationItem(section=SECTION)
            answer = await self.workspace_configuration_async(types.ConfigurationParams([item]))
            self.configure(answer[0] if answer else None)

    def report_server_error(self, error: Exception, source: Any) -> None:
        """Log it; a pop-up per malformed message would help nobody."""
        del source
        told = getattr(error, "data", None)  # of pygls' own errors: where it happened, and which exception it was
        places = (
            cast("list[str]", cast("dict[str, object]", told).get("traceback", [])) if isinstance(told, dict) else []
        )
        kind = str(error).partition(":")[0] if places else type(error).__name__
        logger.error("a message could not be handled (%s)%s", kind, f" at\n{places[-1].rstrip()}" if places else "")

    # --- documents ---------------------------------------------------------------------------------------------------

    def snapshot(self, params: Any) -> Snapshot | None:
        """Return the document that a request is about, as it is now."""
        return self.documents.snapshot(params.text_document.uri, params.position)

    def opened(self, uri: str) -> None:
        """A document was opened."""
        document = self.documents.open_document(uri)
        if document is not None:
            source = source_of(document)
            self.context.opened(source)
            self._refresher.later(source)

    def changed(self, uri: str) -> None:
        """A document's text has changed."""
        document = self.documents.open_document(uri)
        edit = document.last_edit if document else None
        if document is None or edit is None:
            return
        place = Snapshot(uri, document.version, "", document.lines, edit.line, edit.column)
        self.completer.changed(uri, view_of(place))
        self.feedback.edited(uri, edit)
        source = source_of(document)
        self.context.edited(source, edit.line)
        self._refresher.later(source)

    def saved(self, uri: str) -> None:
        """A document was saved: what excludes files may have changed with it."""
        if uri.endswith("ignore"):
            self.exclusions.forget()
        document = self.documents.open_document(uri)
        if document is not None:
            self.context.saved(source_of(document))

    def closed(self, uri: str) -> None:
        """A document was closed."""
        self.completer.close(uri)
        self.feedback.closed(uri)
        self.context.closed(uri)
        self._refresher.forget(uri)

    # --- completion --------------------------------------------------------------------------------------------------

    async def complete(self, arrived: Arrived, invoked: bool, selected: Any = None) -> Answer:
        """Answer a request for suggestions, and note why it was answered so."""
        snapshot = cast("Snapshot | None", arrived.snapshot)
        if snapshot is None:
            answer = Answer(Outcome("unknown document", uri=arrived.params.text_document.uri, invoked=invoked))
        else:
            ask = self._ask(snapshot, invoked, selected)
            try:
                reason = self._refusal(ask)
                answer = Answer(ask.outcome(*reason)) if reason else await self.completer.complete(ask)
            except asyncio.CancelledError:
                self.outcomes.add(ask.outcome("cancelled"))
                raise
            if answer.items:
                self.feedback.shown(snapshot.uri, answer.items[0], snapshot.line, snapshot.column)
        self.outcomes.add(answer.outcome)
        outcome = answer.outcome  # a server's own words for an error may quote what it was sent
        logger.debug(
            "%s", replace(outcome, detail="").as_line() if outcome.kind == "engine error" else outcome.as_line()
        )
        return answer

    def _ask(self, snapshot: Snapshot, invoked: bool, selected: types.SelectedCompletionInfo | None) -> Ask:
        document = self.documents.open_document(snapshot.uri)
        path = local_path(snapshot.uri)
        chosen = None
        if selected is not None and selected.range.start.line == selected.range.end.line == snapshot.line:
            line = snapshot.lines[snapshot.line]
            ends = selected.range.start.character, selected.range.end.character
            start, end = sorted(to_column(line, each, snapshot.encoding) for each in ends)
            chosen = start, end, selected.text
        view = view_of(snapshot, chosen)

        def context() -> Sequence[ContextFile]:
            if not self.options.workspace_context:
                return ()
            return self.context.build(SourceText(snapshot.uri, path, snapshot.language, snapshot.lines), snapshot.line)

        label = self.exclusions.label(path, snapshot.uri)
        return Ask(view, label, invoked, document.last_edit if document else None, context)

    def typed_just_now(self, snapshot: Snapshot | None) -> bool:
        """Whether the cursor stands behind an edit about which nobody has asked yet.

        In `textDocument/completion` "invoked" may mean that, or an explicit request.
        """
        document = self.documents.open_document(snapshot.uri) if snapshot else None
        edit = document.last_edit if document else None
        if snapshot is None or edit is None or (edit.line, edit.column) != (snapshot.line, snapshot.column):
            return False
        latest = self.outcomes.latest(snapshot.uri)
        return latest is None or latest.version != snapshot.version

    def _refusal(self, ask: Ask) -> tuple[Kind, str] | None:
        """Say why there is nothing to ask the completer."""
        view = ask.view
        if not self.options.enabled:
            return "disabled", "suggestions are switched off"
        if view.language in self.options.disabled_languages:
            return "disabled", f"switched off for {view.language}"
        reason = self.exclusions.may_complete(local_path(view.uri), view.uri, view.before + view.after)
        return ("excluded", reason) if reason else None

    def toggle(self, language: str = "") -> bool:
        """Switch suggestions, or those of a language, on or off until the settings change; say whether they are on."""
        options = self.options
        if not language:
            options = replace(options, enabled=not options.enabled)
        else:
            others = [each for each in options.disabled_languages if each != language]
            off = len(others) == len(options.disabled_languages)
            options = replace(options, disabled_languages=(*others, *([language] if off else [])))
        self.options = self.completer.options = options
        self.status.enabled_changed(options.enabled)
        return options.enabled if not language else language not in options.disabled_languages


def local_path(uri: str) -> Path | None:
    """Return where a document lies on this machine, if it does."""
    if not uri.startswith(("file:", "vscode-notebook-cell:")):
        return None
    try:
        path = to_fs_path("file:" + uri.partition(":")[2].partition("#")[0])
    except ValueError:  # brackets around what is no address
        return None
    found = Path(path) if path else None
    return found if found and found.is_absolute() else None  # an untitled notebook's is none


def source_of(document: Document) -> SourceText:
    """Return a document as the context sees it."""
    return SourceText(document.uri, local_path(document.uri), document.language_id or "", document.lines)


async def _end_with(parent: int) -> None:
    """End this process when the editor's has ended without a word."""
    while _alive(parent):
        await asyncio.sleep(PARENT_SECONDS)
    logger.warning("process %d, the editor, is gone", parent)
    os._exit(1)


def _alive(process: int) -> bool:
    if os.name != "posix":
        return False  # there, the same call ends it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it is there, but not ours
    return True
