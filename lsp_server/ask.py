"""One request for suggestions, what it gets, and what answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from engine.request import ContextFile
from lsp_server.documents import Edit
from lsp_server.engine_client import EngineState, Streaming
from lsp_server.outcomes import Kind, Outcome, Stopwatch
from lsp_server.view import View


class Engine(Streaming, Protocol):
    """What the completer needs of EngineClient."""

    @property
    def ready(self) -> bool:
        """See EngineClient."""
        ...

    @property
    def tells_branches(self) -> bool:
        """See EngineClient."""
        ...

    @property
    def state(self) -> EngineState:
        """See EngineClient."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """Text for the columns from `start` to `end` of the view's line, in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets, and why."""

    outcome: Outcome
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `path`: of the file as the model should know it. `context`: finds what of other files to send."""

    view: View
    path: str
    invoked: bool
    edit: Edit | None
    context: Callable[[], Sequence[ContextFile]]
    watch: Stopwatch = field(default_factory=Stopwatch)

    def outcome(self, kind: Kind, detail: str = "", characters: int = 0) -> Outcome:
        """Say how this request ended."""
        self.watch.mark("answer")
        view = self.view
        return Outcome(kind, detail, view.uri, view.version, self.invoked, characters, tuple(self.watch.stages))
