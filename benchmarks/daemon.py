"""What the daemon costs: added latency, how soon a given-up request is dropped, and a whole process.

    python -m benchmarks.daemon --file engine/engine.py --rounds 100

- *Latency.* The same completions by an engine in this process and by a daemon, taking turns; both have seen the same
  requests before. What a completion through the daemon takes more is listed per pair.
- *Cancelling.* A stream is given up after a random time by closing the connection. The delay runs until the engine is
  idle: the daemon is asked later for how long it has been, so that asking does not compete with what is measured. The
  answer is under way for a while, which the delay includes and which is listed, as is the time of one of the layers.
- *Processes.* `treeline complete` from start to exit, with the daemon running and without it, taking turns.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cancel import profile
from benchmarks.common import ROOT, Spread, environment, print_environment, print_json, print_table, spread
from benchmarks.soak import private_daemon
from engine.client import Client
from engine.config import EngineConfig
from engine.engine import Engine
from engine.hub import resolve_pair
from engine.launch import Address, Connection, ensure
from engine.model.config import ModelConfig
from engine.request import CompletionRequest, SamplingParams, StopRules

KEYSTROKES = 10  # typed at a place before the next
SETTLE_SECONDS = 0.1  # after a stream was given up, before asking


@dataclass(frozen=True, slots=True)
class Result:
    """Spreads in milliseconds. `differing`: completions whose text was not that of the engine in this process."""

    here: Spread
    daemon: Spread
    added: Spread
    differing: int
    until_idle: Spread
    asking: Spread
    layer: Spread
    warm_process: Spread
    lone_process: Spread


def latency(engine: Engine, client: Client, requests: list[CompletionRequest]) -> tuple[list[float], list[float], int]:
    """Return the milliseconds of each request here and through the daemon, and how many texts differ."""
    here: list[float] = []
    there: list[float] = []
    differing = 0
    for number, request in enumerate(requests):
        answers: dict[bool, str] = {}
        for local in (True, False) if number % 2 else (False, True):
            began = time.perf_counter()
            chunks = list(engine.complete(request) if local else client.stream(request))
            (here if local else there).append(1000 * (time.perf_counter() - began))
            answers[local] = "".join(chunk.text for chunk in chunks)
        differing += answers[True] != answers[False]
    return here, there, differing


class Asker:
    """Asks a daemon for how long it has been idle, on a connection that stays open."""

    def __init__(self, address: Address) -> None:
        self._connection = Connection(address)

    def idle_seconds(self) -> float:
        """Ask once; 0 while it is busy."""
        self._connection.request("GET", "/health")
        return json.loads(self._connection.getresponse().read())["idle_seconds"]


def until_idle(client: Client, asker: Asker, request: CompletionRequest, wait: float) -> float:
    """Give a stream up after `wait` seconds; return the milliseconds until the daemon was idle."""
    stream = client.stream(request)
    next(stream)
    time.sleep(wait)
    began = time.perf_counter()
    stream.close()
    idle = 0.0
    while not idle:
        time.sleep(SETTLE_SECONDS)
        idle = asker.idle_seconds()
    return 1000 * (time.perf_counter() - began - idle)


def process(variables: Mapping[str, str], file: Path, *options: str) -> float:
    """Return the milliseconds of one `treeline complete`."""
    command = [sys.executable, "-m", "engine", "complete", str(file), "--line", "27", "--column", "13"]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--max-tokens", "16", *options], env=dict(variables), cwd=ROOT, check=True, capture_output=True
    )
    return 1000 * (time.perf_counter() - began)


def typed(text: str, rounds: int, chance: random.Random) -> list[CompletionRequest]:
    """Keystrokes: at each of several random places, KEYSTROKES characters one after another."""
    requests: list[CompletionRequest] = []
    while len(requests) < rounds:
        offset = chance.randrange(1, len(text))
        for end in range(offset, offset + KEYSTROKES):
            request = CompletionRequest(text[:end], text[offset + KEYSTROKES :], path="a.py", language="python")
            requests.append(replace(request, max_tokens=16))
    return requests[:rounds]


def measure(config: EngineConfig, file: Path, rounds: int, processes: int, seed: int) -> Result:
    """Measure everything."""
    chance = random.Random(seed)
    text = file.read_text(encoding="utf-8")
    engine = Engine.load(config)
    endless = replace(
        CompletionRequest("x = [", max_tokens=1500, speculation=False, stop=StopRules(ignore_end_tokens=True)),
        sampling=SamplingParams(temperature=1.4, seed=seed),
    )
    layers = ModelConfig.load(resolve_pair(config).target).num_hidden_layers
    layer = profile(engine, endless, layers).layers_ms
    with private_daemon(config) as variables, Client(config, environment=variables) as client:
        requests = typed(text, rounds, chance)
        latency(engine, client, requests[:10])
        here, there, differing = latency(engine, client, requests)
        asker = Asker(ensure(config, variables))
        asking: list[float] = []
        for _ in range(rounds):
            began = time.perf_counter()
            asker.idle_seconds()
            asking.append(1000 * (time.perf_counter() - began))
        delays = [until_idle(client, asker, endless, chance.uniform(0, 0.3)) for _ in range(rounds)]
        example = ROOT / "docs" / "example.py"
        runs = [
            (process(variables, example), process(variables, example, "--no-daemon")) for _ in range(processes + 1)
        ][1:]
    return Result(
        here=spread(here),
        daemon=spread(there),
        added=spread([b - a for a, b in zip(here, there, strict=True)]),
        differing=differing,
        until_idle=spread(delays),
        asking=spread(asking),
        layer=spread(layer),
        warm_process=spread([warm for warm, _ in runs]),
        lone_process=spread([lone for _, lone in runs]),
    )


def print_result(result: Result) -> None:
    """A table for people."""
    listed = {
        "completion in this process": result.here,
        "through the daemon": result.daemon,
        "more, per pair": result.added,
        "from giving up to an idle engine": result.until_idle,
        "asking whether it is idle": result.asking,
        "one layer of the target": result.layer,
        "treeline complete, daemon warm": result.warm_process,
        "treeline complete --no-daemon": result.lone_process,
    }
    rows = [(name, *(f"{value:.2f}" for value in (row.median, row.p95, row.max))) for name, row in listed.items()]
    print_table(("milliseconds", "median", "p95", "max"), rows)
    print(f"{result.differing} of {result.here.count} completions through the daemon had another text")


def main() -> None:
    """Command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.daemon", description=summary, epilog=rest)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--file", type=Path, default=Path("engine/engine.py"), help="default: engine/engine.py")
    parser.add_argument("--rounds", type=int, default=100, help="completions, and cancelled streams (default: 100)")
    parser.add_argument("--processes", type=int, default=15, help="of each kind (default: 15)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    given = parser.parse_args()
    result = measure(EngineConfig(), given.file, given.rounds, given.processes, given.seed)
    if given.json:
        print_json({"result": result, "environment": environment()})
        return
    print_result(result)
    print_environment(environment())


if __name__ == "__main__":
    main()
