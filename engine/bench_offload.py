"""`treeline bench offload`: how close a streamed target comes to the speed of the disk, and to what was planned."""

from __future__ import annotations

import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.hub import resolve_pair
from engine.kernels import cpu
from engine.loading import LoadProgress, check_vocabularies
from engine.model.config import ModelConfig
from engine.model.transformer import Transformer
from engine.offload.load import Loaded, load_within
from engine.offload.measure import MIB, READ_SHAPES, ReadShape, compute_seconds, read_bandwidth, reading_cost
from engine.offload.planner import Costs, step_seconds
from engine.offload.report import largest_file
from engine.offload.store import Store
from engine.offload.stream import Event, StreamedLayers
from engine.prompt import choose_layout
from engine.request import CompletionRequest, CompletionStats, StopRules
from engine.tokenizer import Tokenizer

ROWS = (1, 8, 16, 32, 64)
RAW_BYTES = 256 * MIB  # read in one measurement of the disk with one read shape
PAST = 256  # positions that the timed passes see


Raw = dict[ReadShape, float]  # bytes per second of each


@dataclass(frozen=True, slots=True)
class Computing:
    """What the processor does alone: seconds of a pass by its rows, and those lost per byte that is read meanwhile."""

    seconds: dict[int, float]
    reading: float


@dataclass(frozen=True, slots=True)
class PassFigures:
    """Passes of `rows` rows, one right after another. Medians over rounds; bandwidths in bytes per second.

    `raw`: of the read shape that is the best in the whole run, just before and after these passes. `ratio`: the median
    of the rounds' own ratios. `predicted`: by the planner, from that raw bandwidth, from computing alone, `compute`,
    and from what reading takes away of it.
    """

    rows: int
    seconds: float
    bandwidth: float
    raw: float
    ratio: float
    compute: float
    predicted: float


@dataclass(frozen=True, slots=True)
class OffloadReport:
    """All that the benchmark found. `timeline`: of one completion's steps, its events since the first, in seconds.

    `reading`: see Computing.
    """

    resident_bytes: int
    streamed_bytes: int
    context: int
    read_shapes: dict[str, float]
    reading: float
    passes: tuple[PassFigures, ...]
    completion: CompletionStats
    text: str
    seconds_per_pass: float
    reading_while_drafting: float
    peak_rss_bytes: int
    memory: int
    timeline: tuple[Event, ...]


PROMPT = '''"""Accounts, and what may be done with them."""

from __future__ import annotations


class Account:
    """Money that belongs to somebody."""

    def __init__(self, owner: str, currency: str, balance: int = 0, limit: int = 0) -> None:
        self.owner = owner
        self.currency = currency
        self.balance = balance
        self.limit = limit

    def deposit(self, amount: int) -> None:
        """Add an amount to the balance."""
        if amount < 0:
            raise ValueError("amount must not be negative")
        self.balance += amount

    def withdraw(self, amount: int) -> None:
        """Take an amount from the balance."""
        if amount < 0:
'''


def load(config: EngineConfig, progress: LoadProgress | None) -> tuple[Engine, Loaded, Computing]:
    """Load the pair of `config` within its memory, as Engine.load does where not all fits. Raises TreelineError.

    Computing alone is measured before, because it takes memory that is given back.
    """
    pair = resolve_pair(config)
    cpu.use_threads(config.threads, native_only=True)
    with largest_file(pair.target) as (file, size):
        computing = Computing(compute_seconds(ModelConfig.load(pair.target), ROWS), reading_cost(file, size))
    cpu.use_threads(config.threads)
    tokenizer = Tokenizer.load(pair.target)
    if pair.drafter:
        check_vocabularies(pair.drafter, tokenizer)
    loaded = load_within(config.memory or 0, pair.target, pair.drafter, config.context_length, progress)
    cpu.use_threads(config.threads, native_only=True)
    layout = choose_layout(tokenizer, config.layout)
    return Engine(loaded.target, loaded.drafter, tokenizer, layout, config.budget), loaded, computing


def bench_offload(
    engine: Engine,
    loaded: Loaded,
    computing: Computing,
    request: CompletionRequest,
    rounds: int,
    progress: Callable[[str], None],
) -> OffloadReport:
    """Measure the target of `loaded`, which `engine` runs. Raises TreelineError if none of its weights is streamed."""
    layers, plan = loaded.target.layers, loaded.plan
    if not isinstance(layers, StreamedLayers):
        raise TreelineError("nothing is streamed: all layers fit into the memory that is allowed; allow less")
    raw: list[Raw] = []
    timed: dict[int, list[tuple[float, Raw, Raw]]] = {rows: [] for rows in ROWS}  # the disk before and after
    for number in range(rounds):
        for rows in ROWS:
            progress(f"round {number + 1} of {rounds}: {rows} rows")
            raw.append(_raw(layers.store))
            seconds = _pass_seconds(loaded.target, rows)
            raw.append(_raw(layers.store))
            timed[rows].append((seconds, raw[-2], raw[-1]))
    shapes = {shape: statistics.median(each[shape] for each in raw) for shape in READ_SHAPES}
    best = max(READ_SHAPES, key=shapes.__getitem__)
    passes: list[PassFigures] = []
    for rows in ROWS:
        rounds_of = [(seconds, (before[best] + after[best]) / 2) for seconds, before, after in timed[rows]]
        passes.append(_figures(rows, rounds_of, computing, loaded))
    progress("completing")
    completion, text, events = _complete(engine, layers, request)
    return OffloadReport(
        resident_bytes=plan.resident_bytes,
        streamed_bytes=plan.streamed_bytes,
        context=plan.context,
        read_shapes={str(shape): bandwidth for shape, bandwidth in shapes.items()},
        reading=computing.reading,
        passes=tuple(passes),
        completion=completion,
        text=text,
        seconds_per_pass=completion.total_ms / 1000 / completion.target_passes,
        reading_while_drafting=overlap(events),
        peak_rss_bytes=_peak_rss(),
        memory=plan.memory,
        timeline=tuple(events),
    )


def _raw(store: Store) -> Raw:
    """Measure every read shape once, at the head of the store. Raises TreelineError if the store is too small."""
    start, size = store.pieces[0].offset, store.path.stat().st_size
    if start + RAW_BYTES > size:
        raise TreelineError(f"{store.path} is too small to measure the disk with: {RAW_BYTES // MIB} MiB are needed")
    return {shape: read_bandwidth(store.file, shape, start, start + RAW_BYTES) for shape in READ_SHAPES}


def _pass_seconds(model: Transformer, rows: int) -> float:
    """Of the second and third pass: the first one finds its beginning in the ring."""
    cache = model.new_cache(PAST + rows)
    cache.append(range(-1, PAST - 1))
    cache.commit(range(PAST))
    times = [time.perf_counter()]
    for _ in range(3):
        model.forward(list(range(rows)), [-1] * rows, cache, slice(None))
        cache.discard()
        times.append(time.perf_counter())
    return (times[3] - times[1]) / 2


def _figures(rows: int, timed: Sequence[tuple[float, float]], computing: Computing, loaded: Loaded) -> PassFigures:
    streamed = loaded.plan.streamed_bytes
    seconds = statistics.median(taken for taken, _ in timed)
    raw = statistics.median(bandwidth for _, bandwidth in timed)
    return PassFigures(
        rows=rows,
        seconds=seconds,
        bandwidth=streamed / seconds,
        raw=raw,
        ratio=statistics.median(streamed / taken / bandwidth for taken, bandwidth in timed),
        compute=computing.seconds[rows],
        predicted=step_seconds(loaded.plan, Costs(computing.seconds.__getitem__, raw, reading=computing.reading), rows),
    )


def _complete(
    engine: Engine, layers: StreamedLayers, request: CompletionRequest
) -> tuple[CompletionStats, str, list[Event]]:
    """Complete once to learn the costs, and once more, with the caches of the prompt emptied, to be looked at."""
    for _ in engine.complete(request):
        pass
    engine.forget()
    events: list[Event] = []
    layers.record(events.append)
    chunks = list(engine.complete(request))
    layers.record(None)
    stats = chunks[-1].stats
    assert stats is not None  # the last chunk has them
    return stats, "".join(chunk.text for chunk in chunks), sorted(events, key=lambda event: event.start)


def gaps(events: Sequence[Event]) -> list[tuple[float, float]]:
    """When no layer was waited for or computed: between passes, where drafts are made and trees are checked."""
    busy = sorted((event.start, event.end) for event in events if event.kind != "read")
    return [(end, start) for (_, end), (start, _) in itertools.pairwise(busy) if start - end > 1e-4]


def overlap(events: Sequence[Event]) -> float:
    """Which part of the time between passes was read in; 0 where there is no such time."""
    reads = _merged([(event.start, event.end) for event in events if event.kind == "read"])
    total = covered = 0.0
    for start, end in gaps(events):
        total += end - start
        covered += sum(max(0.0, min(end, stop) - max(start, begin)) for begin, stop in reads)
    return covered / total if total else 0.0


def _merged(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def timeline(events: Sequence[Event], seconds: float, width: int = 100) -> list[str]:
    """The last `seconds` of `events` as lines of text: "#" where a lane was busy most of a column's time, "-" some.

    Lanes: blocks being read, layers being computed, waiting for a layer, and all else (drafting, output projection).
    """
    if not events:
        return []
    end = max(event.end for event in events)
    start = max(end - seconds, min(event.start for event in events))
    lanes = {
        "read": _merged([(event.start, event.end) for event in events if event.kind == "read"]),
        "compute": [(event.start, event.end) for event in events if event.kind == "compute"],
        "wait": [(event.start, event.end) for event in events if event.kind == "wait"],
        "draft, head": gaps(events),
    }
    step = (end - start) / width
    return [
        f"{name:>11} {''.join(_mark(spans, start + step * i, step) for i in range(width))}"
        for name, spans in lanes.items()
    ]


def _mark(spans: Sequence[tuple[float, float]], start: float, step: float) -> str:
    busy = sum(max(0.0, min(start + step, end) - max(start, begin)) for begin, end in spans) / step
    return "#" if busy > 0.5 else "-" if busy > 0.05 else " "


def default_request(prefix: str, max_tokens: int) -> CompletionRequest:
    """A completion of `max_tokens` tokens behind `prefix`, whatever the model would rather do."""
    return CompletionRequest(prefix=prefix, max_tokens=max_tokens, stop=StopRules(ignore_end_tokens=True))


def _peak_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
