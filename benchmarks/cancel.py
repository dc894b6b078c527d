"""How soon a cancelled completion returns, and whether the next one notices.

    python -m benchmarks.cancel --file engine/engine.py --trials 100

Each trial completes at another place of a real file and sets the cancel flag from another thread after a random part
of the time that the same completion took uncancelled, so that the flag falls into any layer of any pass. The delay runs
from the flag to the return. It is held against the time of one layer, measured in the uncancelled run as the time
between two of the target's questions whether to stop; what lies between two passes (output projection, verification,
drafting) is listed too. Afterwards the same engine answers another request, whose tokens must be those of an engine
that never saw anything else.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.common import Spread, environment, print_environment, print_json, print_table, spread
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.hub import resolve_pair
from engine.model.config import ModelConfig
from engine.request import CompletionRequest


@dataclass(slots=True)
class Questions:
    """A cancel flag that stays down and notes when it is looked at."""

    times: list[float] = field(default_factory=list[float])

    def __call__(self) -> bool:
        """Look at the flag."""
        self.times.append(time.perf_counter())
        return False


@dataclass(frozen=True, slots=True)
class Profile:
    """An uncancelled run: its tokens, its seconds, and how they divide between and inside passes (milliseconds)."""

    tokens: tuple[int, ...]
    seconds: float
    layers_ms: tuple[float, ...]
    between_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One cancelled run and the request after it. `verified`: what came out is the beginning of the whole answer."""

    delay_ms: float
    longest_layer_ms: float
    longest_between_ms: float
    verified: bool
    next_equal: bool
    next_gap: float | None


def run(
    engine: Engine, request: CompletionRequest, cancelled: Questions | threading.Event
) -> tuple[tuple[int, ...], bool]:
    """Complete; return the tokens and whether the engine says that it was cancelled."""
    flag = cancelled.is_set if isinstance(cancelled, threading.Event) else cancelled
    chunks = list(engine.complete(request, flag))
    return tuple(token for chunk in chunks for token in chunk.tokens), chunks[-1].finish_reason == "cancelled"


def profile(engine: Engine, request: CompletionRequest, layers: int) -> Profile:
    """Run from empty caches; the target asks once before each of its `layers`: so many questions are a pass."""
    engine.reset()
    questions = Questions()
    began = time.perf_counter()
    tokens, _ = run(engine, request, questions)
    ended = time.perf_counter()
    stamps = [*questions.times, ended]
    gaps = [1000 * (later - earlier) for earlier, later in pairwise(stamps)]
    inside = tuple(gap for number, gap in enumerate(gaps, 1) if number % layers)
    between = (1000 * (stamps[0] - began), *(gap for number, gap in enumerate(gaps, 1) if number % layers == 0))
    return Profile(tokens, ended - began, inside, between)


def cancel_after(engine: Engine, request: CompletionRequest, seconds: float) -> tuple[tuple[int, ...], float] | None:
    """Cancel after `seconds`; return the tokens and the delay in milliseconds, or None if the answer came first."""
    engine.reset()
    flag = threading.Event()
    raised: list[float] = []

    def raise_flag() -> None:
        raised.append(time.perf_counter())
        flag.set()

    timer = threading.Timer(seconds, raise_flag)
    timer.start()
    tokens, cancelled = run(engine, request, flag)
    returned = time.perf_counter()
    timer.cancel()
    timer.join()
    return (tokens, 1000 * (returned - raised[0])) if cancelled else None


def one_trial(
    engine: Engine, fresh: Engine, request: CompletionRequest, following: CompletionRequest, layers: int, part: float
) -> Trial | None:
    """Profile, cancel, then answer `following`; None if the flag came too late."""
    whole = profile(engine, request, layers)
    stopped = cancel_after(engine, request, part * whole.seconds)
    if stopped is None:
        return None
    tokens, delay = stopped
    never = threading.Event()
    ours, _ = run(engine, following, never)
    fresh.reset()
    theirs, _ = run(fresh, following, never)
    gap = None
    if ours != theirs:
        same = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        gap = fresh.logit_gap(following, theirs[:same])
    verified = whole.tokens[: len(tokens)] == tokens
    return Trial(delay, max(whole.layers_ms), max(whole.between_ms), verified, ours == theirs, gap)


def places(text: str, count: int, path: str, max_tokens: int, chance: random.Random) -> list[CompletionRequest]:
    """Requests at the ends of random lines."""
    ends = [offset for offset, char in enumerate(text) if char == "\n"]
    offsets = [chance.choice(ends) for _ in range(count)]
    return [
        CompletionRequest(text[:offset], text[offset:], path=path, language="python", max_tokens=max_tokens)
        for offset in offsets
    ]


@dataclass(frozen=True, slots=True)
class Result:
    """Spreads over the trials, in milliseconds. `within_layer`: trials that returned within their longest layer."""

    trials: int
    too_late: int
    delay_ms: Spread
    layer_ms: Spread
    between_ms: Spread
    within_layer: int
    within_layer_or_between: int
    unverified: int
    next_differing: int
    next_gaps: tuple[float, ...]


def summarise(trials: Sequence[Trial], too_late: int) -> Result:
    """Spreads over the trials."""
    return Result(
        trials=len(trials),
        too_late=too_late,
        delay_ms=spread([trial.delay_ms for trial in trials]),
        layer_ms=spread([trial.longest_layer_ms for trial in trials]),
        between_ms=spread([trial.longest_between_ms for trial in trials]),
        within_layer=sum(trial.delay_ms <= trial.longest_layer_ms for trial in trials),
        within_layer_or_between=sum(
            trial.delay_ms <= max(trial.longest_layer_ms, trial.longest_between_ms) for trial in trials
        ),
        unverified=sum(not trial.verified for trial in trials),
        next_differing=sum(not trial.next_equal for trial in trials),
        next_gaps=tuple(trial.next_gap for trial in trials if trial.next_gap is not None),
    )


def print_result(result: Result) -> None:
    """A table for people."""
    listed = {
        "from the flag to the return": result.delay_ms,
        "longest layer of the run": result.layer_ms,
        "longest time between two passes": result.between_ms,
    }
    spreads = [(name, *(f"{value:.2f}" for value in (row.median, row.p95, row.max))) for name, row in listed.items()]
    print_table(("milliseconds", "median", "p95", "max"), spreads)
    gaps = ", ".join(f"{gap:.4f}" for gap in result.next_gaps)
    print(
        f"\n{result.trials} cancelled ({result.too_late} had ended before the flag): {result.within_layer} returned"
        f" within their longest layer's time, {result.within_layer_or_between} within that or the longest time between"
        f" passes\n{result.unverified} gave text that the whole answer does not begin with; the next request differed"
        f" from a fresh engine's {result.next_differing} times" + (f" (logit gaps {gaps})" if gaps else "")
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cancel", description=summary, epilog=rest)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--file", type=Path, default=Path("engine/engine.py"), help="a Python file (default: engine/engine.py)")
    add("--trials", type=int, default=100, help="default: 100")
    add("--max-tokens", type=int, default=48, help="tokens of a completion, at most (default: 48)")
    add("--seed", type=int, default=0, help="of the places and of the moments (default: 0)")
    add("--model", default="bundled", help="preset or checkpoint folder (default: the bundled pair)")
    add("--drafter", default="auto", help='checkpoint folder, "auto" or "none"')
    add("--dtype", default="auto", help="as for `treeline complete`")
    add("--threads", type=int, help="CPU threads (default: all)")
    add("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    given = parse_arguments()
    config = EngineConfig(model=given.model, drafter=given.drafter, dtype=given.dtype, threads=given.threads)
    chance = random.Random(given.seed)
    try:
        text = given.file.read_text(encoding="utf-8")
        layers = ModelConfig.load(resolve_pair(config).target).num_hidden_layers
        engine, fresh = Engine.load(config), Engine.load(config)
        listed = places(text, 2 * given.trials, str(given.file), given.max_tokens, chance)
        profile(engine, listed[0], layers)  # what only the first request of a process pays is nobody's layer
        found = [
            one_trial(engine, fresh, listed[2 * number], listed[2 * number + 1], layers, chance.random())
            for number in range(given.trials)
        ]
    except (TreelineError, OSError) as error:
        sys.exit(f"error: {error}")
    trials = [trial for trial in found if trial is not None]
    if not trials:
        sys.exit("error: every completion ended before its flag: give more --trials or more --max-tokens")
    result, where = summarise(trials, len(found) - len(trials)), environment()
    if given.json:
        print_json({"result": result, "file": str(given.file), "trials": trials, "environment": where})
        return
    print_result(result)
    print_environment(where)


if __name__ == "__main__":
    main()
