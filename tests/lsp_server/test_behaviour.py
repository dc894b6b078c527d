"""The pace of typing, what became of suggestions, and why there were none."""

from __future__ import annotations

import pytest

from lsp_server.ask import Item
from lsp_server.documents import Edit
from lsp_server.feedback import Feedback
from lsp_server.outcomes import REMEMBERED, Outcome, Outcomes
from lsp_server.pace import LONGEST_SECONDS, Pace

URI = "file:///w/a.py"


def typing(gap: float, cost: float) -> Pace:
    pace = Pace()
    for number in range(50):
        pace.keystroke(number * gap)
        pace.answered(cost)
    return pace


def test_an_engine_that_is_fast_enough_is_asked_at_once() -> None:
    assert typing(gap=0.2, cost=0.01).delay() == 0


def test_an_engine_that_is_slower_than_the_typing_waits_for_a_pause() -> None:
    slow = typing(gap=0.12, cost=1.0)
    assert slow.gap == pytest.approx(0.12, abs=0.01)
    assert slow.delay() == pytest.approx(0.18, abs=0.02)
    assert typing(gap=0.5, cost=2.0).delay() == LONGEST_SECONDS
    assert typing(gap=0.2, cost=0.1).delay() == pytest.approx(0.1)


def test_pauses_are_no_typing() -> None:
    pace = typing(gap=0.1, cost=0.01)
    pace.keystroke(1000.0)
    assert pace.gap == pytest.approx(0.1, abs=0.01)


def test_taking_a_suggestion_is_seen_in_the_edits() -> None:
    feedback = Feedback()
    feedback.shown(URI, Item("return value", 4, 6), 3, 6)
    assert not feedback.edited(URI, Edit(3, 7, "t", 0)), "a key is typing"
    feedback.shown(URI, Item("return value", 4, 7), 3, 7)
    assert feedback.counts.shown == 1, "the same suggestion"
    assert feedback.edited(URI, Edit(3, 16, "return value", 3))
    counts = feedback.counts
    assert (counts.accepted, counts.characters) == (1, len("urn value"))
    assert not feedback.edited(URI, Edit(3, 16, "return value", 3)), "it is taken once"


def test_taking_a_part_is_seen_too() -> None:
    feedback = Feedback()
    feedback.shown(URI, Item("return value", 4, 4), 3, 4)
    counts = feedback.counts
    assert not feedback.edited(URI, Edit(3, 7, "ret", 0))
    feedback.shown(URI, Item("return value", 4, 7), 3, 7)
    assert not feedback.edited(URI, Edit(3, 11, "urn ", 0))
    assert (counts.shown, counts.accepted_in_part, counts.accepted) == (1, 1, 0), "one suggestion, in two parts"
    assert feedback.edited(URI, Edit(3, 16, "value", 0))
    assert (counts.shown, counts.accepted_in_part, counts.accepted) == (1, 0, 1), "now all of it"
    assert counts.characters == len("return value")
    feedback.shown(URI, Item(" width * height", 10, 10), 5, 10)
    assert not feedback.edited(URI, Edit(5, 11, " ", 0))
    assert not feedback.edited(URI, Edit(5, 16, "width", 0)), "before the next request is answered"
    assert (counts.shown, counts.accepted_in_part) == (2, 1)
    feedback.shown(URI, Item("x", 0, 0), 0, 0)
    feedback.closed(URI)
    assert not feedback.edited(URI, Edit(0, 1, "x", 0))


def test_outcomes_are_counted_and_the_last_ones_kept() -> None:
    outcomes = Outcomes()
    for number in range(REMEMBERED + 5):
        outcomes.add(Outcome("rule", "right after a delete", f"file:///{number % 2}"))
    outcomes.add(Outcome("answered", "", URI, 3, True, 12, (("cache", 0.1), ("answer", 5.04))))
    assert outcomes.counts == {"rule": REMEMBERED + 5, "answered": 1}
    assert len(outcomes.recent) == REMEMBERED
    latest = outcomes.latest()
    assert latest is not None
    assert latest.as_json() == {
        "reason": "answered",
        "detail": "",
        "uri": URI,
        "version": 3,
        "invoked": True,
        "characters": 12,
        "stages": {"cache": 0.1, "answer": 5.04},
    }
    assert latest.as_line() == "answered (cache 0 ms, answer 5 ms)"
    other = outcomes.latest("file:///0")
    assert other is not None
    assert other.as_line() == "rule: right after a delete"
