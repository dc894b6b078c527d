"""What benchmarks.acceptance, benchmarks.circles and benchmarks.samples make of completions."""

from __future__ import annotations

import pytest

from benchmarks.acceptance import nodes, table
from benchmarks.circles import needed, summary
from benchmarks.samples import Sample, choose, markdown
from engine.bench import Case


def case(number: int = 0, kind: str = "mid-line") -> Case:
    return Case(f"p/a.py:{number}:1", "python", "a.py", "def f():\n    return ", "\n\nx = 1\n", "1 + 1", kind)


def test_a_pass_ends_with_the_first_token_that_no_draft_holds() -> None:
    found = [0, 7, 8, 0, None, 1]
    assert list(nodes(found)) == [(1, 0), (2, 7), (3, 8), (1, 0), (2, None), (1, 1)]


def test_shares_are_of_the_nodes_at_a_depth() -> None:
    rows = table([[0, 1, 0], [0, None], [3]])
    assert [(row.depth, row.nodes) for row in rows] == [("1", 3), ("2", 2), ("3", 1), ("all", 6)]
    assert rows[0].shares[:4] == pytest.approx((2 / 3, 0, 0, 1 / 3))
    assert rows[1].shares[:2] == pytest.approx((0, 1 / 2))
    assert rows[-1].shares[0] == pytest.approx(3 / 6)


def test_samples_are_drawn_whatever_becomes_of_them() -> None:
    cases = [case(number) for number in range(20)]
    drawn = choose(cases, 5, 0)
    assert drawn == choose(cases, 5, 0) != choose(cases, 5, 1)
    assert len(choose(cases, 50, 0)) == 20


def test_a_sample_is_shown_between_its_lines() -> None:
    page = "\n".join(markdown([Sample(case(), "1 + 1\n"), Sample(case(1, "whole-line"), "```")]))
    assert "First lines as in the file: 1 of 2 (mid-line 1 of 1, whole-line 0 of 1)." in page
    assert "    return \u27e61 + 1\n\u27e7\n\nx = 1" in page
    assert "return \u27e6'''\u27e7" in page  # the model cannot end the page's fence
    assert "In the file: `1 + 1`" in page


def test_circles_are_counted_beside_what_they_cost() -> None:
    circle = [("1 + ", 2)] + [("some_value + ", 3)] * 6 + [("end", 1)]
    good = [("1 + 1", 3), ("\n", 1)]
    assert needed(circle) == 2 + 4 * 3
    assert needed(good) == 4
    found = summary([(case(1), circle), (case(2), good)])
    assert (found.completions, found.circles, found.first_line) == (2, 1, 1)
    assert (found.tokens, found.tokens_not_needed) == (25, 7)
    assert (found.right_lines, found.right_lines_lost) == (1, 0)
    assert (found.pieces, found.pieces_called_circles) == (1, 0)
