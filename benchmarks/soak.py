"""Many requests to one daemon, half of them given up at random moments.

    python -m benchmarks.soak --file engine/engine.py --requests 500

Several clients ask at once, at random places of a real file; a newer request for the same document takes the place of
an older one. Half of the requests are cancelled after a random time, by closing the connection. The text of every
request that was answered to its end is compared with that of an engine in this process, whose caches are emptied before
each. The daemon's resident memory is read after the first requests and at the end.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import environment, print_environment, print_json
from engine.client import Client
from engine.config import EngineConfig
from engine.engine import Engine
from engine.launch import ensure, running, stop
from engine.request import CompletionRequest, SamplingParams


@contextmanager
def private_daemon(config: EngineConfig) -> Iterator[dict[str, str]]:
    """Variables under which `config` has a daemon that nobody else uses; it is started, and ended afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        variables = dict(os.environ) | {"TREELINE_RUNTIME_DIR": folder}
        ensure(config, variables)
        try:
            with Client(config, environment=variables) as client:
                client.complete(CompletionRequest("x = ", max_tokens=1))  # loaded, and what only the first one pays
            yield variables
        finally:
            for daemon in list(running(variables)):
                stop(daemon.pid, daemon.files)


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, what came of it, and whether it was given up."""

    request: CompletionRequest
    text: str
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """`differing`: requests that were answered to the end, but not with the text of a fresh engine."""

    requests: int
    answered: int
    cancelled: int
    differing: int
    seconds: float
    early_bytes: int
    final_bytes: int

    @property
    def growth(self) -> float:
        """How much larger the daemon is at the end, as a part of what it was."""
        return self.final_bytes / self.early_bytes - 1


def places(text: str, count: int, chance: random.Random) -> list[CompletionRequest]:
    """Requests at random places, every third one sampled."""
    offsets = [chance.randrange(len(text)) for _ in range(count)]
    return [
        CompletionRequest(
            text[:offset],
            text[offset:],
            path=f"file{number % 5}.py",
            language="python",
            max_tokens=chance.choice((8, 24, 64)),
            sampling=SamplingParams(temperature=0.8 if number % 3 == 0 else 0.0, seed=number),
        )
        for number, offset in enumerate(offsets)
    ]


def ask(variables: Mapping[str, str], config: EngineConfig, request: CompletionRequest, wait: float | None) -> Asked:
    """Complete; `wait`: give it up after so many seconds, by closing the connection."""
    with Client(config, name="soak", environment=variables) as client:
        timer = threading.Timer(wait, client.cancel) if wait is not None else None
        if timer:
            timer.start()
        chunks = list(client.stream(request))
        if timer:
            timer.cancel()
            timer.join()
    return Asked(request, "".join(chunk.text for chunk in chunks), chunks[-1].finish_reason)


def soak(config: EngineConfig, text: str, count: int, early: int, clients: int, seed: int) -> Result:
    """Run `count` requests, `clients` at a time; memory is first read after `early` of them."""
    chance = random.Random(seed)
    requests = places(text, count, chance)
    waits = [chance.uniform(0.0, 0.15) if chance.random() < 0.5 else None for _ in requests]
    began = time.perf_counter()
    with private_daemon(config) as variables, ThreadPoolExecutor(clients) as pool:
        (daemon,) = running(variables)

        def run(part: slice) -> list[Asked]:
            asked = zip(requests[part], waits[part], strict=True)
            return list(pool.map(lambda pair: ask(variables, config, *pair), asked))

        found = run(slice(early))
        early_bytes = resident_bytes(daemon.pid)
        found += run(slice(early, None))
        final_bytes = resident_bytes(daemon.pid)
    seconds = time.perf_counter() - began
    answered = [each for each in found if each.finish_reason != "cancelled"]
    engine = Engine.load(config)
    differing = sum(each.text != fresh_text(engine, each.request) for each in answered)
    return Result(count, len(answered), count - len(answered), differing, seconds, early_bytes, final_bytes)


def fresh_text(engine: Engine, request: CompletionRequest) -> str:
    """What an engine that has seen nothing else says."""
    engine.forget()
    return "".join(chunk.text for chunk in engine.complete(request))


def print_result(result: Result, early: int) -> None:
    """Two lines for people."""
    print(
        f"{result.requests} requests in {result.seconds:.0f} s: {result.answered} answered, {result.cancelled} not,"
        f" {result.differing} answers not a fresh engine's"
    )
    sizes = (
        f"{result.early_bytes / 2**20:.0f} MiB after {early} requests, {result.final_bytes / 2**20:.0f} MiB at the end"
    )
    print(f"resident memory of the daemon: {sizes} ({100 * result.growth:+.1f}%)")


def main() -> None:
    """Command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=summary, epilog=rest)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--file", type=Path, default=Path("engine/engine.py"), help="default: engine/engine.py")
    parser.add_argument("--requests", type=int, default=500, help="default: 500")
    parser.add_argument("--early", type=int, default=50, help="requests before memory is first read (default: 50)")
    parser.add_argument("--clients", type=int, default=4, help="at a time (default: 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    text = given.file.read_text(encoding="utf-8")
    result = soak(EngineConfig(), text, given.requests, given.early, given.clients, given.seed)
    if given.json:
        print_json({"result": result, "growth": result.growth, "environment": environment()})
    else:
        print_result(result, given.early)
        print_environment(environment())
    sys.exit(1 if result.differing else 0)


if __name__ == "__main__":
    main()
