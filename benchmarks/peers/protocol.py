"""What the measuring process and its workers say to each other: one JSON object a line. Standard library only.

Every library runs in a process of its own (versions, thread pools and memory cannot then disturb each other) and
answers one job at a time, so that whoever is not being measured is blocked on its standard input.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Job:
    """Complete `prompt` greedily by exactly `max_tokens` tokens, from a cold cache, ignoring end tokens.

    With "seconds" among its settings, a reply may have fewer: no pass begins when so many have gone by since the first.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    settings: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """How long after the first pass new ones may begin; infinity without a limit."""
        return float(self.settings.get("seconds", math.inf))


@dataclass(frozen=True, slots=True)
class Reply:
    """`first_count` tokens were out after `first_s` seconds, all of them after `total_s`; `passes` of the target."""

    tokens: tuple[int, ...]
    first_count: int
    first_s: float
    total_s: float
    passes: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Sent once, when the worker is ready."""

    versions: Mapping[str, str]


def serve(versions: Mapping[str, str], complete: Callable[[Job], Reply]) -> None:
    """A worker's main loop: greet, then answer jobs until standard input ends.

    Replies go to the real standard output; whatever a library prints goes to standard error instead.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps(asdict(Hello(versions))), file=out, flush=True)
    for line in sys.stdin:
        raw = json.loads(line)
        reply = complete(Job(tuple(raw["prompt"]), raw["max_tokens"], raw["settings"]))
        print(json.dumps(asdict(reply)), file=out, flush=True)


class Worker:
    """One peer's process. Use as a context manager; it ends with its standard input."""

    def __init__(
        self,
        python: str,
        module: str,
        arguments: Sequence[str],
        threads: int,
        within: Callable[[Sequence[str]], Sequence[str]] = list,
    ) -> None:
        """Start `python -m module` in the repository; `threads` goes to it and to all its thread pools.

        `within`: changes the command.
        """
        pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self.name = module.rsplit(".", 1)[-1]
        self._process = subprocess.Popen(
            within([python, "-m", module, "--threads", str(threads), *arguments]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, **pools, "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
        self.versions: Mapping[str, str] = self._receive()["versions"]

    def complete(self, job: Job) -> Reply:
        """Run one job; RuntimeError when the worker has died (its own message is on standard error)."""
        stdin = cast(IO[str], self._process.stdin)
        stdin.write(json.dumps(asdict(job)) + "\n")
        stdin.flush()
        raw = self._receive()
        return Reply(tuple(raw["tokens"]), raw["first_count"], raw["first_s"], raw["total_s"], raw["passes"])

    def _receive(self) -> dict[str, Any]:
        line = cast(IO[str], self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"the worker {self.name} ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Worker:
        """The worker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its standard input and wait for it."""
        cast(IO[str], self._process.stdin).close()
        self._process.wait()
