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
import os
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT, environment, print_environment, print_json, print_table
from benchmarks.lsp_person import Open, Person, Text
from engine.bench_replay import private_runtime, ready, resident, same_text, session
from engine.config import EngineConfig
from engine.launch import running
from training.common import progress

CLIENTS = 2
PARTS = 10  # of the operations; memory is read after each
SETTLED = 2  # parts, after which it should not grow any more
FLAT = 0.1  # that memory may grow
EXPECTED = re.compile(r"^$")  # of standard error: nothing at all


@dataclass(frozen=True, slots=True)
class Result:
    """`lost`: requests without an answer. `strays`: answers that nobody waits for. `unexpected`: lines of stderr.

    `bytes`: of memory that each server holds, after each tenth of the operations.
    """

    operations: int
    requests: int
    answers: Mapping[str, int]
    lost: int
    strays: int
    failed: int
    differing: int
    kills: int
    bytes: tuple[tuple[int, ...], ...]
    unexpected: tuple[str, ...]
    outcomes: Mapping[str, int]

    @property
    def growth(self) -> float:
        """How much the server that has grown most is larger at the end, as a part of what it was."""
        pairs = zip(self.bytes[SETTLED - 1], self.bytes[-1], strict=True)
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
        for person in people:
            await person.visit()
        marks = {round(operations * (number + 1) / (kills + 1)) for number in range(kills)}
        killed = 0
        parts = {round(operations * (number + 1) / PARTS) for number in range(PARTS)}
        sizes: list[tuple[int, ...]] = []
        for number in range(1, operations + 1):
            await people[chance.randrange(CLIENTS)].act()
            if number in marks:
                killed += _kill(variables)
            if number in parts:
                sizes.append(tuple(resident(client.process.pid) or 0 for client in clients))
                tell(f"{number} operations, {sizes[-1]} bytes")
        for person in people:
            await person.settle()
        differing = sum([not await same_text(p.client, d.uri, d.text.text) for p in people for d in p.documents])
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
        operations, requests, dict(answers), lost, strays, answers["error"], differing, killed, tuple(sizes),
        tuple(lines), dict(outcomes),
    )  # fmt: skip


def _kill(variables: Mapping[str, str]) -> int:
    """End the daemon without a warning; say how many there were."""
    found = list(running(variables))
    for daemon in found:
        os.kill(daemon.pid, signal.SIGKILL)
    return len(found)


def print_result(result: Result) -> None:
    """A table for people."""
    sizes = [" ".join(f"{size / 2**20:.0f}" for size in server) for server in zip(*result.bytes, strict=True)]
    rows = [
        ("operations", str(result.operations)),
        ("requests", str(result.requests)),
        *((f"answered: {kind}", str(count)) for kind, count in sorted(result.answers.items())),
        ("without an answer", str(result.lost)),
        ("answers too many", str(result.strays)),
        ("daemons killed", str(result.kills)),
        ("documents that differ", str(result.differing)),
        *(("a server's MiB, after each tenth", size) for size in sizes),
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
