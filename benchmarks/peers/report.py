"""From replies to the table and the JSON object."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import print_table
from benchmarks.peers.measure import Run, Tuned, agreement, decode_rate, rate
from benchmarks.peers.protocol import Reply
from benchmarks.peers.rows import GENERATE, LLAMA_USUAL, ONE_BY_ONE, SPECULATIVE


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the cases.

    `tokens_per_second`: whole completions, reading the prompt included. `decode_tokens_per_second`: after the first
    pass. `identical`: cases whose tokens are all those of the reference (transformers, float32, the same weights);
    `agreeing`: share of tokens before the first difference from it.
    """

    name: str
    settings: Mapping[str, Any]
    tokens_per_second: float
    decode_tokens_per_second: float
    first_token_ms: float
    tokens_per_pass: float
    identical: int
    agreeing: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Medians of `of` over medians of `to`, and the median over the cases of the whole-completion ratio."""

    of: str
    to: str
    whole: float
    decode: float
    per_case: float


def make_row(tuned: Tuned, replies: Sequence[Reply], reference: Sequence[Sequence[int]]) -> Row:
    """Summarise one peer."""
    decoding = [found for reply in replies if (found := decode_rate(reply)) is not None]
    tokens = sum(len(reply.tokens) for reply in replies)
    agreeing = [agreement(reply.tokens, expected) for reply, expected in zip(replies, reference, strict=True)]
    identical = sum(tuple(expected) == reply.tokens for reply, expected in zip(replies, reference, strict=True))
    return Row(
        name=tuned.peer.name,
        settings={key: _short(value) for key, value in tuned.settings.items()},
        tokens_per_second=statistics.median(map(rate, replies)),
        decode_tokens_per_second=statistics.median(decoding) if decoding else 0.0,
        first_token_ms=1000 * statistics.median(reply.first_s for reply in replies),
        tokens_per_pass=tokens / sum(reply.passes for reply in replies),
        identical=identical,
        agreeing=sum(agreeing) / sum(map(len, reference)),
    )


def ratios(rows: Sequence[Row], run: Run) -> list[Ratio]:
    """The comparisons that are quoted: Treeline speculative and one by one against the others."""
    by_name = {row.name: row for row in rows}
    others = [row.name for row in rows if row.name != SPECULATIVE]
    pairs = [(SPECULATIVE, name) for name in others]
    pairs += [(ONE_BY_ONE, name) for name in (GENERATE, LLAMA_USUAL) if name in by_name]
    found: list[Ratio] = []
    for of, to in pairs:
        cases = zip(run.replies[of], run.replies[to], strict=True)
        found.append(
            Ratio(
                of, to,
                by_name[of].tokens_per_second / by_name[to].tokens_per_second,
                by_name[of].decode_tokens_per_second / by_name[to].decode_tokens_per_second
                if by_name[to].decode_tokens_per_second else 0.0,
                statistics.median(rate(ours) / rate(theirs) for ours, theirs in cases),
            )
        )  # fmt: skip
    return found


def as_json(rows: Sequence[Row], found: Sequence[Ratio], run: Run) -> dict[str, Any]:
    """Everything: the rows, the ratios, what tuning tried, and the times of every case."""
    tuning = {
        tuned.peer.name: [
            {"settings": {key: _short(value) for key, value in variant.items()}, "tokens_per_second": speed}
            for variant, speed in zip(tuned.peer.variants, tuned.tried, strict=True)
        ]
        for tuned in run.tuned
        if tuned.tried
    }
    cases = {
        name: [
            {"tokens": len(r.tokens), "first_ms": 1000 * r.first_s, "total_ms": 1000 * r.total_s, "passes": r.passes}
            for r in replies
        ]
        for name, replies in run.replies.items()
    }
    return {
        "rows": [asdict(row) for row in rows], "ratios": [asdict(ratio) for ratio in found],
        "tuning": tuning, "replies": cases,
    }  # fmt: skip


def print_report(rows: Sequence[Row], found: Sequence[Ratio], cases: int) -> None:
    """Tables for people."""
    header = ("peer", "tokens/s", "decode only", "first ms", "per pass", "identical", "agreeing")
    lines = [
        (
            row.name,
            f"{row.tokens_per_second:.1f}",
            f"{row.decode_tokens_per_second:.1f}",
            f"{row.first_token_ms:.1f}",
            f"{row.tokens_per_pass:.2f}",
            f"{row.identical}/{cases}",
            f"{row.agreeing:.0%}",
        )
        for row in rows
    ]
    print_table(header, lines)
    print("\nSettings, each peer's fastest:")
    for row in rows:
        print(f"  {row.name}: " + ", ".join(f"{key} {value}" for key, value in row.settings.items()))
    print()
    quoted = [(f"{r.of} / {r.to}", f"{r.whole:.2f}x", f"{r.decode:.2f}x", f"{r.per_case:.2f}x") for r in found]
    print_table(("ratio of medians", "tokens/s", "decode only", "per case"), quoted)


def _short(value: object) -> object:
    return Path(value).name if isinstance(value, str) and "/" in value else value
