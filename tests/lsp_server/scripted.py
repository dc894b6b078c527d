"""An engine that says what a test wants, when it wants; and places to ask about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from engine.errors import TreelineError
from engine.request import Branch, CompletionChunk, CompletionRequest, FinishReason
from lsp_server.ask import Ask
from lsp_server.documents import Edit, Snapshot, split_lines
from lsp_server.engine_client import EngineState
from lsp_server.view import View, view_of

URI = "file:///w/a.py"
Piece = str | tuple[str, list[Branch]] | asyncio.Event | TreelineError


@dataclass
class ScriptedEngine:
    """Answers by `script`: pieces of text come at once, an Event holds what comes after it until it is set."""

    script: Callable[[CompletionRequest], Sequence[Piece]]
    ready: bool = True
    tells_branches: bool = True
    state: EngineState = field(default_factory=lambda: EngineState("ready"))
    finish_reason: FinishReason = "stop"
    requests: list[CompletionRequest] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0

    async def stream(self, request: CompletionRequest, document: str = "") -> AsyncGenerator[CompletionChunk]:
        """See EngineClient."""
        self.requests.append(request)
        self.running += 1
        finished = False
        try:
            for piece in self.script(request):
                await asyncio.sleep(0)
                if isinstance(piece, asyncio.Event):
                    await piece.wait()
                elif isinstance(piece, TreelineError):
                    finished = True
                    raise piece
                elif isinstance(piece, tuple):
                    yield CompletionChunk(piece[0], (), branches=tuple(piece[1]))
                else:
                    yield CompletionChunk(piece, ())
            finished = True
            yield CompletionChunk("", (), self.finish_reason)
        finally:
            self.running -= 1
            self.cancelled += not finished


def says(text: str) -> Callable[[CompletionRequest], Sequence[Piece]]:
    """Always the same."""
    return lambda request: [text]


def knows(file: str) -> Callable[[CompletionRequest], Sequence[Piece]]:
    """What follows in `file`, up to the end of the line where the request wants that, else all of it."""

    def script(request: CompletionRequest) -> Sequence[Piece]:
        at = file.find(request.prefix[-40:]) if request.prefix else 0
        rest = file[at + len(request.prefix[-40:]) :] if at >= 0 else ""
        return [rest.split("\n")[0] if request.stop.end_of_line else rest]

    return script


def place(before: str, after: str = "", selected: tuple[int, int, str] | None = None, uri: str = URI) -> View:
    """The place between two texts."""
    above = split_lines(before)
    return view_of(Snapshot(uri, 1, "python", split_lines(before + after), len(above) - 1, len(above[-1])), selected)


def asking(
    before: str,
    after: str = "",
    *,
    invoked: bool = False,
    edit: Edit | None = None,
    selected: tuple[int, int, str] | None = None,
    uri: str = URI,
) -> Ask:
    """A request for suggestions between two texts."""
    return Ask(place(before, after, selected, uri), "a.py", invoked, edit, lambda: ())


def applied(before: str, item_text: str, start: int, end: int, after: str = "") -> str:
    """The document's text once an item has been accepted."""
    line_start = before.rfind("\n") + 1
    whole = before + after
    return whole[: line_start + start] + item_text + whole[line_start + end :]
