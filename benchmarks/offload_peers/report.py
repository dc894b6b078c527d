"""From replies to the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.common import print_table
from benchmarks.peers.measure import agreement
from benchmarks.peers.protocol import Reply


@dataclass(frozen=True, slots=True)
class Row:
    """What a peer did. Rates are over all prompts and without the first pass of each.

    `peak_bytes`: of the control group, page cache included; `peak_anonymous_bytes`: without. `agreeing`: share of the
    tokens before the first difference from Treeline in memory. `error`: why it ended early, if it did.
    """

    name: str
    seconds_per_pass: float | None
    tokens_per_second: float | None
    tokens_per_pass: float | None
    first_s: float | None
    tokens: int
    passes: int
    peak_bytes: int
    peak_anonymous_bytes: int
    agreeing: float | None
    versions: Mapping[str, str]
    error: str | None


def make_row(
    name: str,
    replies: Sequence[Reply],
    reference: Sequence[Sequence[int]],
    peaks: tuple[int, int],
    versions: Mapping[str, str],
    error: str | None,
) -> Row:
    """Summarise the replies, of which there may be fewer than prompts."""
    passes = sum(reply.passes - 1 for reply in replies)
    tokens = sum(len(reply.tokens) - reply.first_count for reply in replies)
    seconds = sum(reply.total_s - reply.first_s for reply in replies)
    pairs = list(zip(replies, reference, strict=False))
    compared = sum(min(len(reply.tokens), len(expected)) for reply, expected in pairs)
    agreeing = sum(agreement(reply.tokens, expected) for reply, expected in pairs)
    return Row(
        name=name,
        seconds_per_pass=seconds / passes if passes else None,
        tokens_per_second=tokens / seconds if passes else None,
        tokens_per_pass=tokens / passes if passes else None,
        first_s=sum(reply.first_s for reply in replies) / len(replies) if replies else None,
        tokens=sum(len(reply.tokens) for reply in replies),
        passes=passes + len(replies),
        peak_bytes=peaks[0],
        peak_anonymous_bytes=peaks[1],
        agreeing=agreeing / compared if compared else None,
        versions=versions,
        error=error,
    )


def print_report(rows: Sequence[Row]) -> None:
    """A table for people; failures below it."""
    header = (
        "peer",
        "s/pass",
        "tokens/pass",
        "tokens/s",
        "first pass s",
        "tokens",
        "peak MiB",
        "not cache",
        "agreeing",
    )
    print_table(
        header,
        [
            (
                row.name,
                _number(row.seconds_per_pass),
                _number(row.tokens_per_pass),
                _number(row.tokens_per_second),
                _number(row.first_s),
                str(row.tokens),
                f"{row.peak_bytes / 2**20:.0f}",
                f"{row.peak_anonymous_bytes / 2**20:.0f}",
                "-" if row.agreeing is None else f"{row.agreeing:.0%}",
            )
            for row in rows
        ],
    )
    for row in rows:
        if row.error:
            print(f"{row.name}: {row.error}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
