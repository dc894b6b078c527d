"""Thousands of edits and requests to two language servers that share one daemon, which is killed now and then.

    python -m benchmarks.lsp_soak --operations 10000

Each server has the same documents open and gets its own random edits: keys, many lines at once, deletions, other
scripts, every kind of line break, whole texts, places beyond the end. Requests are cancelled at random, several may be
under way. At the end every request must have exactly one answer, every document must be the client's (by its SHA-256;
the clients keep plain strings and find lines in their own way), and the servers' memory must be what it was after a
fifth of the time. What the servers wrote to standard error is shown unless it is expected.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import os
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, environment, print_environment, print_json, print_table
from engine.bench_replay import private_runtime, ready, resident, same_text, session
from engine.bench_replay_client import Answer, LanguageClient
from engine.config import EngineConfig
from engine.launch import running
from training.common import progress

CLIENTS = 2
SETTLED = 0.2  # of the operations, after which memory is first read
FLAT = 0.1  # that memory may grow
MOST_PENDING = 24
EXPECTED = re.compile(r"^$")  # of standard error: nothing at all
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


@dataclass(frozen=True, slots=True)
class Result:
    """`lost`: requests without an answer. `strays`: answers that nobody waits for. `unexpected`: lines of stderr."""

    operations: int
    requests: int
    answers: Mapping[str, int]
    lost: int
    strays: int
    failed: int
    differing: int
    kills: int
    settled_bytes: tuple[int, ...]
    final_bytes: tuple[int, ...]
    unexpected: tuple[str, ...]
    outcomes: Mapping[str, int]

    @property
    def growth(self) -> float:
        """How much the server that has grown most is larger at the end, as a part of what it was."""
        pairs = zip(self.settled_bytes, self.final_bytes, strict=True)
        return max((last / first - 1 for first, last in pairs if first), default=0.0)

    def wrong(self, *, memory: bool = True) -> str:
        """Say what should not be so, in one line; nothing if all is well."""
        found = [
            f"{count} {what}"
            for count, what in (
                (self.lost, "requests without an answer"),
                (self.strays, "answers too many"),
                (self.failed, "requests answered with an error"),
                (self.differing, "documents that differ"),
                (len(self.unexpected), "unexpected lines on standard error"),
            )
            if count
        ]
        if memory and self.growth > FLAT:
            found.append(f"a server's memory grew by {self.growth:.0%}")
        return ", ".join(found)


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
        items = (answer.result or {}).get("items", [])
        end = "text" if items else "nothing" if answer.error is None else "cancelled" if answer.cancelled else "error"
        self.answers[end] += 1


def _splits_a_break(text: str, offset: int) -> bool:
    return text[offset - 1 : offset + 1] == "\r\n"


def documents(folder: Path, count: int, most_lines: int, chance: random.Random) -> list[Open]:
    """Documents of 10 to `most_lines` lines, small ones first, of this project's own code, some with CRLF."""
    rows = [row for path in sorted((ROOT / "engine").glob("*.py")) for row in path.read_text("utf-8").split("\n")]
    made: list[Open] = []
    for number in range(count):
        size = round(10 * (most_lines / 10) ** (number / max(count - 1, 1)))
        first = chance.randrange(len(rows))
        lines = [rows[(first + row) % len(rows)] for row in range(size)]
        text = "".join(line + ("\r\n" if number % 4 == 1 else "\n") for line in lines)
        made.append(Open((folder / f"module_{number}.py").as_uri(), Text(text, chance)))
    return made


async def soak(
    variables: Mapping[str, str],
    folder: Path,
    operations: int,
    count: int,
    most_lines: int,
    kills: int,
    seed: int,
    tell: Callable[[str], None],
) -> Result:
    """Do it. Raises TreelineError if a server ends or does not answer."""
    chance = random.Random(seed)
    async with session(variables, folder, "vscode", []) as one, session(variables, folder, "vscode", []) as other:
        await asyncio.gather(ready(one), ready(other))
        clients = (one, other)
        people = [Person(each, documents(folder, count, most_lines, chance), chance) for each in clients]
        for person in people:
            for document in person.documents:
                person.open(document)
        marks = {round(operations * (number + 1) / (kills + 1)) for number in range(kills)}
        killed = 0
        settled: tuple[int, ...] = ()
        for number in range(1, operations + 1):
            await people[chance.randrange(CLIENTS)].act()
            if number in marks:
                killed += _kill(variables)
            if number == round(SETTLED * operations):
                settled = _memory(clients)
                tell(f"{number} operations, {settled} bytes")
            elif number % 1000 == 0:
                tell(f"{number} operations, {_memory(clients)} bytes")
        for person in people:
            await person.settle()
        differing = sum([not await same_text(p.client, d.uri, d.text.text) for p in people for d in p.documents])
        final = _memory(clients)
        outcomes: Counter[str] = Counter()
        for client in clients:
            told = await client.ask("workspace/executeCommand", {"command": "treeline.server.statistics"})
            outcomes.update(told["requests"])
        answers = sum((person.answers for person in people), Counter[str]())
        requests, lost = sum(person.requests for person in people), sum(client.unanswered for client in clients)
    lines = [line for client in clients for line in client.stderr if not EXPECTED.search(line)]
    strays = sum(client.strays for client in clients)
    lost += requests - answers.total()
    return Result(
        operations, requests, dict(answers), lost, strays, answers["error"], differing, killed, settled, final,
        tuple(lines), dict(outcomes),
    )  # fmt: skip


def _memory(clients: tuple[LanguageClient, ...]) -> tuple[int, ...]:
    return tuple(resident(client.process.pid) or 0 for client in clients)


def _kill(variables: Mapping[str, str]) -> int:
    """End the daemon without a warning; say how many there were."""
    found = list(running(variables))
    for daemon in found:
        os.kill(daemon.pid, signal.SIGKILL)
    return len(found)


def print_result(result: Result) -> None:
    """A table for people."""
    sizes = [f"{size / 2**20:.0f}" for size in (*result.settled_bytes, *result.final_bytes)]
    rows = [
        ("operations", str(result.operations)),
        ("requests", str(result.requests)),
        *((f"answered: {kind}", str(count)) for kind, count in sorted(result.answers.items())),
        ("without an answer", str(result.lost)),
        ("answers too many", str(result.strays)),
        ("daemons killed", str(result.kills)),
        ("documents that differ", str(result.differing)),
        ("servers' MiB, after a fifth", " ".join(sizes[: len(result.settled_bytes)])),
        ("servers' MiB, at the end", " ".join(sizes[len(result.settled_bytes) :])),
        *((f"reason: {kind}", str(count)) for kind, count in sorted(result.outcomes.items())),
    ]
    print_table(("", ""), rows)
    for line, count in Counter(result.unexpected).most_common(40):
        print(f"stderr, {count} times: {line}")


def main() -> None:
    """Command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lsp_soak", description=summary, epilog=rest)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--operations", type=int, default=10_000, help="default: 10000")
    parser.add_argument("--documents", type=int, default=20, help="open in each server (default: 20)")
    parser.add_argument("--lines", type=int, default=20_000, help="of the largest document (default: 20000)")
    parser.add_argument("--kills", type=int, default=5, help="of the daemon (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    given = parser.parse_args()
    with private_runtime(EngineConfig()) as (variables, folder):
        work = soak(
            variables, folder, given.operations, given.documents, given.lines, given.kills, given.seed, progress
        )
        result = asyncio.run(work)
    if given.json:
        print_json({"result": result, "growth": result.growth, "environment": environment()})
    else:
        print_result(result)
        print_environment(environment())
    if wrong := result.wrong():
        sys.exit(f"error: {wrong}")


if __name__ == "__main__":
    main()
