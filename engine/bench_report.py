"""What `treeline bench decode` reports: agreement, acceptance and speed, over all cases and by kind of cursor."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.bench import Outcome, Result
from engine.doctor import physical_memory

GapOf = Callable[[Result, int], float]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where a case's two outputs part. A token is None where that output had ended.

    `logit_gap`: difference of the target's two best logits there, as decoded one by one.
    """

    id: str
    position: int
    speculative_token: int | None
    autoregressive_token: int | None
    logit_gap: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one completion."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures over some cases. Rates are medians over cases; `total_...` are all tokens over all time.

    `accepted_per_pass`: all tokens over all target passes, speculative. `speedup`: median over cases of the
    autoregressive time over the speculative time for the same tokens.
    """

    cases: int
    new_tokens: int
    line_exact_match: float
    accepted_per_pass: float
    tokens_per_second: float
    autoregressive_tokens_per_second: float
    speedup: float
    total_tokens_per_second: float
    total_autoregressive_tokens_per_second: float
    total_speedup: float
    latency_ms: Latency
    autoregressive_latency_ms: Latency


@dataclass(frozen=True, slots=True)
class CaseRow:
    """One case of the report."""

    id: str
    kind: str
    tokens: int
    target_passes: int
    drafted_tokens: int
    line_matches: bool
    milliseconds: float
    autoregressive_milliseconds: float


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the figures were measured on."""

    processor: str
    threads: int
    memory_bytes: int
    system: str
    python: str
    torch: str


def figures(results: Sequence[Result]) -> Figures:
    """Summarise some cases (at least one)."""
    ours = [result.speculative for result in results]
    theirs = [result.autoregressive for result in results]
    passes = sum(outcome.stats.target_passes for outcome in ours)
    ratios = [r.autoregressive.milliseconds / r.speculative.milliseconds for r in results if r.mismatch is None]
    total, total_theirs = _total_rate(ours), _total_rate(theirs)
    return Figures(
        cases=len(results),
        new_tokens=sum(len(outcome.tokens) for outcome in ours),
        line_exact_match=sum(result.line_matches for result in results) / len(results),
        accepted_per_pass=sum(len(outcome.tokens) for outcome in ours) / max(passes, 1),
        tokens_per_second=_median_rate(ours),
        autoregressive_tokens_per_second=_median_rate(theirs),
        speedup=statistics.median(ratios) if ratios else 0.0,
        total_tokens_per_second=total,
        total_autoregressive_tokens_per_second=total_theirs,
        total_speedup=total / total_theirs if total_theirs else 0.0,
        latency_ms=_latency(ours),
        autoregressive_latency_ms=_latency(theirs),
    )


def figures_by_kind(results: Sequence[Result]) -> dict[str, Figures]:
    """Summarise each kind of case by itself; empty when the cases carry no kind."""
    kinds = sorted({result.case.kind for result in results if result.case.kind})
    return {kind: figures([result for result in results if result.case.kind == kind]) for kind in kinds}


def mismatches(results: Sequence[Result], gap_of: GapOf) -> list[Mismatch]:
    """List the cases whose two outputs differ."""
    rows: list[Mismatch] = []
    for result in results:
        position = result.mismatch
        if position is not None:
            ours, theirs = result.speculative.tokens, result.autoregressive.tokens
            pair = _token(ours, position), _token(theirs, position)
            rows.append(Mismatch(result.case.id, position, *pair, gap_of(result, position)))
    return rows


def rows(results: Sequence[Result]) -> list[CaseRow]:
    """Describe every case."""
    return [
        CaseRow(
            id=result.case.id,
            kind=result.case.kind,
            tokens=len(result.speculative.tokens),
            target_passes=result.speculative.stats.target_passes,
            drafted_tokens=result.speculative.stats.drafted_tokens,
            line_matches=result.line_matches,
            milliseconds=result.speculative.milliseconds,
            autoregressive_milliseconds=result.autoregressive.milliseconds,
        )
        for result in results
    ]


def report(results: Sequence[Result], gap_of: GapOf, settings: Mapping[str, object], version: str) -> dict[str, object]:
    """Put together the JSON object of `bench decode`; `settings` goes into it as it is."""
    listed = mismatches(results, gap_of)
    return {
        **asdict(figures(results)),
        "mismatches": len(listed),
        "mismatch_details": [asdict(row) for row in listed],
        "by_kind": {kind: asdict(row) for kind, row in figures_by_kind(results).items()},
        "results": [asdict(row) for row in rows(results)],
        "settings": dict(settings),
        "hardware": asdict(hardware()),
        "version": version,
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def hardware() -> Hardware:
    """Describe this machine and what computes on it."""
    import torch

    from engine.kernels import cpu

    python = platform.python_version()
    return Hardware(_processor(), cpu.threads(), physical_memory(), platform.platform(), python, str(torch.__version__))


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _latency(outcomes: Sequence[Outcome]) -> Latency:
    times = [outcome.milliseconds for outcome in outcomes]
    return Latency(statistics.median(times), percentile(times, 0.95))


def _median_rate(outcomes: Sequence[Outcome]) -> float:
    return statistics.median(outcome.tokens_per_second for outcome in outcomes)


def _total_rate(outcomes: Sequence[Outcome]) -> float:
    return 1000 * sum(len(o.tokens) for o in outcomes) / sum(o.milliseconds for o in outcomes)


def _token(tokens: Sequence[int], position: int) -> int | None:
    return tokens[position] if position < len(tokens) else None
