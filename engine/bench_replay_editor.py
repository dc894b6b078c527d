"""An editor without a screen: it sends what VS Code or Neovim would send, and notes what a typist would see."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from engine.bench_replay_client import Answer, LanguageClient
from engine.bench_replay_judges import Offered, Place, Screen, Shown, fault
from engine.bench_replay_typist import Page, Stroke

Style = Literal["vscode", "neovim"]
ENCODINGS: Mapping[Style, str] = {"vscode": "utf-16", "neovim": "utf-8"}
_ASK = "textDocument/inlineCompletion"


@dataclass(slots=True)
class Asked:
    """One request. `along`: the key before it agreed with what was shown. `ms`: from that key to the answer.

    `end`: how it was answered; an older one's text is "late" where the document has changed since. `offered`: the
    first suggestion. `seen`: what it did to what the typist sees. `fault`: why it does not fit the text it was for.
    `reason`: the server's own, filled in later.
    """

    version: int
    place: Place
    along: bool
    at: float
    ms: float = 0.0
    end: Literal["", "shown", "late", "nothing", "cancelled", "error"] = ""
    offered: Offered | None = None
    seen: Shown = "nothing"
    fault: str = ""
    reason: str = ""
    was: str = ""


class Editor:
    """One open document."""

    def __init__(self, client: LanguageClient, style: Style, uri: str, version: int = 1) -> None:
        """`version`: of the document as it is opened."""
        self.uri = uri
        self.style: Style = style
        self.asked: list[Asked] = []
        self.screen = Screen()
        self.covers = 0  # characters behind the cursor that what is shown takes the place of
        self._client = client
        self._version = version
        self._strokes = 0
        self._page = Page("", "")
        self._shown: Asked | None = None
        self._pending: int | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, page: Page, language: str) -> None:
        """Open the document; the typist shares the page."""
        self._page = page
        document = {"uri": self.uri, "languageId": language, "version": self._version, "text": page.text}
        self._client.notify("textDocument/didOpen", {"textDocument": document})

    def press(self, stroke: Stroke) -> None:
        """Do what a key does: change the text, tell the server, ask it."""
        page = self._page
        self._strokes += 1
        if stroke.kind == "move":
            self._clear()
            page.apply(stroke)
            return
        at = asyncio.get_running_loop().time()
        self._version += 1
        self._notify(stroke)
        along = stroke.kind == "type" and self.screen.typed(stroke.text[: stroke.cursor])
        if not along:
            self._clear()
        elif stroke.ahead:
            self.covers = max(0, self.covers - stroke.ahead)
        page.apply(stroke)
        self._ask(at, along)

    async def settle(self) -> None:
        """Wait until every request is answered. Raises TreelineError if one is not."""
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    def close(self) -> None:
        """Save and close it."""
        document = {"textDocument": {"uri": self.uri}}
        self._client.notify("textDocument/didSave", document)
        self._client.notify("textDocument/didClose", document)

    # --- what is sent ------------------------------------------------------------------------------------------------

    def _notify(self, stroke: Stroke) -> None:
        page, text, back, ahead = self._page, stroke.text, stroke.back, stroke.ahead
        shown = self._shown.offered if self._shown else None
        if stroke.kind == "accept" and self.style == "vscode" and shown is not None:
            head = len(_last_line(page.before)) - shown.start  # the whole item, what is typed of it included
            text, back = page.before[len(page.before) - head :] + text, back + head
        start = page.before[: len(page.before) - back]
        end = page.before + page.after[:ahead]
        change = {"range": {"start": self._position(start), "end": self._position(end)}, "text": text}
        document = {"uri": self.uri, "version": self._version}
        self._client.notify("textDocument/didChange", {"textDocument": document, "contentChanges": [change]})
        if stroke.kind == "accept" and self.style == "vscode":
            command = {"command": "treeline.server.accepted", "arguments": [self.uri]}
            _, future = self._client.request("workspace/executeCommand", command)
            self._later(self._confirm(future))

    def _ask(self, at: float, along: bool) -> None:
        if self.style == "vscode" and self._pending is not None:
            self._client.cancel(self._pending)
        before = self._page.before
        line = _last_line(before)
        place = Place(before.count("\n"), len(line), line + self._page.after.partition("\n")[0])
        asked = Asked(self._version, place, along, at)
        self.asked.append(asked)
        params = {
            "textDocument": {"uri": self.uri},
            "position": self._position(before),
            "context": {"triggerKind": 2},
        }
        self._pending, future = self._client.request(_ASK, params)
        self._later(self._receive(asked, self._strokes, future))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def _position(self, before: str) -> dict[str, int]:
        return {"line": before.count("\n"), "character": self._units(_last_line(before))}

    def _units(self, text: str) -> int:
        return len(text.encode("utf-16-le")) // 2 if self.style == "vscode" else len(text.encode())

    # --- what comes back ---------------------------------------------------------------------------------------------

    async def _confirm(self, future: asyncio.Future[Answer]) -> None:
        await self._client.answer("workspace/executeCommand", future)

    async def _receive(self, asked: Asked, stroke: int, future: asyncio.Future[Answer]) -> None:
        answer = await self._client.answer(_ASK, future)
        if stroke == self._strokes:
            self._pending = None
        asked.ms = 1000 * (answer.received - asked.at)
        if answer.error is not None:
            asked.end = "cancelled" if answer.cancelled else "error"
            return
        result = cast("Mapping[str, Any]", answer.result or {})
        items = cast("Sequence[Mapping[str, Any]]", result.get("items") or [])
        if items:
            asked.offered = self._offered(items[0], asked.place)
            asked.fault = fault(asked.offered, asked.place)
        if stroke != self._strokes:  # an editor drops it: it was overtaken by a key
            asked.end = "late" if items else "nothing"
            return
        asked.end = "shown" if items else "nothing"
        if not asked.fault:
            self._show(asked)

    def _show(self, asked: Asked) -> None:
        asked.was = self.screen.rest
        offered, place = asked.offered, asked.place
        if offered is None:
            self._shown, self.covers = None, 0
            asked.seen = self.screen.show("", self._page.after)
            return
        self._shown, self.covers = asked, offered.end - place.column
        asked.seen = self.screen.show(offered.rest(place), self._page.after[self.covers :])

    def _clear(self) -> None:
        self.screen.clear()
        self._shown, self.covers = None, 0

    def _offered(self, item: Mapping[str, Any], place: Place) -> Offered:
        first, last = item["range"]["start"], item["range"]["end"]
        columns = [self._column(place.line, each["character"]) for each in (first, last)]
        return Offered(item["insertText"], first["line"], columns[0], last["line"], columns[1])

    def _column(self, line: str, units: int) -> int:
        """Return the column in characters; beyond the line, or within a character, one that no line has."""
        if line.isascii():
            return units
        sizes = [self._units(line[:column]) for column in range(len(line) + 1)]
        return sizes.index(units) if units in sizes else len(line) + units


def _last_line(text: str) -> str:
    return text.rpartition("\n")[2]
