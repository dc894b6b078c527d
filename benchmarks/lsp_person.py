"""Somebody with many documents open in one language server, who edits, asks and cancels without a plan."""

from __future__ import annotations

import asyncio
import bisect
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

from engine.bench_replay_client import Answer, LanguageClient

MOST_PENDING = 24
_BREAK = re.compile(r"\r\n|\n|\r")
_WORDS = (*'()[].:=x"\t\f\u2028', "value", "return", "self", "  ", "é", "日本", "𝒳")


class Text:
    """A client's document: one string. Places are (line, UTF-16 column), found anew after each change."""

    def __init__(self, text: str, chance: random.Random) -> None:
        self.text = text
        self._chance = chance
        self._starts: list[int] | None = None

    def place(self, *, at_end: bool = False) -> tuple[int, dict[str, int]]:
        """A random place that is not within a line break: its offset, and its position. `at_end`: of a line."""
        starts = self._lines()
        line = self._chance.randrange(len(starts))
        start = starts[line]
        end = starts[line + 1] if line + 1 < len(starts) else len(self.text)
        row = self.text[start:end].rstrip("\r\n")
        column = len(row) if at_end else self._chance.randint(0, len(row))
        return start + column, self._position(line, row[:column])

    def position(self, offset: int) -> dict[str, int]:
        """The position of an offset; of the end of its line where it is within a line break, or too large."""
        starts = self._lines()
        offset = min(offset, len(self.text))
        line = bisect.bisect_right(starts, offset) - 1
        return self._position(line, self.text[starts[line] : offset].rstrip("\r\n"))

    def near(self, offset: int, most: int) -> tuple[int, dict[str, int]]:
        """A place at most so many lines below that of `offset`."""
        starts = self._lines()
        line = bisect.bisect_right(starts, offset) - 1
        last = min(line + self._chance.randint(0, most), len(starts) - 1)
        end = starts[last + 1] if last + 1 < len(starts) else len(self.text)
        row = self.text[starts[last] : end].rstrip("\r\n")
        low = offset - starts[last] if last == line else 0
        column = self._chance.randint(max(0, min(low, len(row))), len(row))
        return starts[last] + column, self._position(last, row[:column])

    def replace(self, start: int, end: int, new: str) -> None:
        """Put `new` in place of what is between two offsets."""
        self.text = self.text[:start] + new + self.text[end:]
        self._starts = None

    def _position(self, line: int, before: str) -> dict[str, int]:
        return {"line": line, "character": len(before.encode("utf-16-le")) // 2}

    def _lines(self) -> list[int]:
        if self._starts is None:
            self._starts = [0, *(match.end() for match in _BREAK.finditer(self.text))]
        return self._starts


@dataclass(slots=True)
class Open:
    """An open document."""

    uri: str
    text: Text
    version: int = 1
    cursor: int = 0


@dataclass(slots=True)
class Person:
    """Somebody at one server, who edits, asks and cancels without a plan."""

    client: LanguageClient
    documents: list[Open]
    chance: random.Random
    requests: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])
    _pending: dict[int, asyncio.Task[None]] = field(default_factory=dict[int, "asyncio.Task[None]"])
    _tasks: list[asyncio.Task[None]] = field(default_factory=list["asyncio.Task[None]"])

    async def act(self) -> None:
        """One operation."""
        document = self.chance.choice(self.documents)
        dice = self.chance.random()
        if dice < 0.72:
            self._edit(document)
            if self.chance.random() < 0.8:
                self._ask(document)
        elif dice < 0.9:
            self._ask(document)
        elif dice < 0.98 and self._pending:
            self.client.cancel(self.chance.choice(list(self._pending)))
        elif dice < 0.985:
            self._reopen(document)
        else:
            self._whole(document)
        await self.client.drain()
        if len(self._pending) > MOST_PENDING:
            await asyncio.wait(list(self._pending.values()), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(self.chance.choice((0, 0, 0, 0.002, 0.01, 0.04)))

    async def visit(self) -> None:
        """Edit every document once and ask there, so that what the largest ones take has been taken once."""
        for document in self.documents:
            self._edit(document)
            self._ask(document)
            await self.settle()

    async def settle(self) -> None:
        """Wait for all answers."""
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    def open(self, document: Open) -> None:
        """Open a document in the server."""
        item = {"uri": document.uri, "languageId": "python", "version": document.version, "text": document.text.text}
        self.client.notify("textDocument/didOpen", {"textDocument": item})

    def _edit(self, document: Open) -> None:
        """One change or several in one message: typing on at the last place, or anything anywhere."""
        changes = [self._change(document) for _ in range(self.chance.choice((1, 1, 1, 1, 2, 5)))]
        self._send(document, changes)

    def _change(self, document: Open) -> dict[str, Any]:
        text = document.text
        start, first = text.place(at_end=self.chance.random() < 0.5)
        kind = self.chance.random()
        new = self.chance.choice(_WORDS) if kind < 0.6 else self._lines() if kind < 0.8 else ""
        end, last = start, first
        if kind > 0.4:
            end, last = text.near(start, self.chance.choice((0, 0, 3, 30)) if kind > 0.5 else 0)
        if end < start:
            end, last = start, first
        if self.chance.random() < 0.03:  # beyond the end is the end
            end, last = len(text.text), {"line": 1_000_000, "character": 3}
            if end - start > 4000:
                start, first = end, last
        if _splits_a_break(text.text, start) or _splits_a_break(text.text, end):
            return self._change(document)
        text.replace(start, end, new)
        document.cursor = start + len(new)
        return {"range": {"start": first, "end": last}, "text": new}

    def _lines(self) -> str:
        ending = self.chance.choice(("\n", "\n", "\r\n", "\r"))
        return "".join(
            self.chance.choice(_WORDS) * self.chance.randint(0, 3) + ending for _ in range(self.chance.randint(1, 12))
        )

    def _whole(self, document: Open) -> None:
        """Send all of a small document anew, changed in one place."""
        if len(document.text.text) > 100_000:
            return
        start, _ = document.text.place()
        document.text.replace(start, start, self.chance.choice(_WORDS))
        self._send(document, [{"text": document.text.text}])

    def _send(self, document: Open, changes: list[dict[str, Any]]) -> None:
        document.version += 1
        identifier = {"uri": document.uri, "version": document.version}
        self.client.notify("textDocument/didChange", {"textDocument": identifier, "contentChanges": changes})

    def _reopen(self, document: Open) -> None:
        self.client.notify("textDocument/didClose", {"textDocument": {"uri": document.uri}})
        document.version += 1
        self.open(document)

    def _ask(self, document: Open) -> None:
        dice = self.chance.random()
        position = document.text.position(document.cursor) if dice < 0.6 else document.text.place(at_end=dice < 0.9)[1]
        params = {
            "textDocument": {"uri": document.uri},
            "position": position,
            "context": {"triggerKind": self.chance.choice((1, 2, 2, 2))},
        }
        number, future = self.client.request("textDocument/inlineCompletion", params)
        self.requests += 1
        task = asyncio.create_task(self._receive(number, future))
        self._pending[number] = task
        self._tasks.append(task)

    async def _receive(self, number: int, future: asyncio.Future[Answer]) -> None:
        answer = await self.client.answer("textDocument/inlineCompletion", future)
        self._pending.pop(number, None)
        items = cast("dict[str, Any]", answer.result or {}).get("items")
        end = "text" if items else "nothing" if answer.error is None else "cancelled" if answer.cancelled else "error"
        self.answers[end] += 1


def _splits_a_break(text: str, offset: int) -> bool:
    return text[offset - 1 : offset + 1] == "\r\n"
