"""The benchmark of streaming reads its own timeline right."""

from __future__ import annotations

import pytest

from engine.bench_offload import gaps, overlap, timeline
from engine.offload.stream import Event

EVENTS = [
    Event("read", 0, 0.0, 4.0),  # two threads
    Event("read", 1, 1.0, 5.0),
    Event("wait", 0, 0.0, 2.0),
    Event("compute", 0, 2.0, 3.0),
    Event("compute", 1, 3.0, 4.0),
    # 4 to 8: between two passes, of which 4 to 5 and 7 to 8 are read in
    Event("read", 0, 7.0, 9.0),
    Event("compute", 0, 8.0, 10.0),
]


def test_what_lies_between_passes_is_found() -> None:
    assert gaps(EVENTS) == [(4.0, 8.0)]


def test_overlap_counts_every_moment_once() -> None:
    assert overlap(EVENTS) == pytest.approx(0.5)
    assert overlap([]) == 0


def test_the_timeline_shows_each_lane() -> None:
    assert timeline(EVENTS, seconds=100, width=10) == [
        "       read #####  ## ",
        "    compute   ##    ##",
        "       wait ##        ",
        "draft, head     ####  ",
    ]
    assert timeline(EVENTS, seconds=2, width=2) == [
        "       read # ",
        "    compute ##",
        "       wait   ",
        "draft, head   ",
    ]
    assert timeline([], seconds=1) == []
