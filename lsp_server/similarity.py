"""How much two pieces of code have in common: lines for copies of one another, words for code about the same things."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{2,}")
_SHORTEST_LINE = 4  # characters; shorter ones, such as `}` or `)`, stand everywhere


def telling_lines(lines: Iterable[str]) -> frozenset[str]:
    """Return the lines that tell pieces of code apart, without their indentation."""
    stripped = (line.strip() for line in lines)
    return frozenset(line for line in stripped if len(line) >= _SHORTEST_LINE)


def words(lines: Iterable[str]) -> frozenset[str]:
    """Return the names and keywords in a piece of code."""
    return frozenset(word for line in lines for word in _WORD.findall(line))


def jaccard(one: Set[str], other: Set[str]) -> float:
    """Return the share of what is in either that is in both: 0 for nothing, 1 for the same."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0


def share(one: Set[str], other: Set[str]) -> float:
    """Return the share of the first that is in the second, too."""
    return len(one & other) / len(one) if one else 0.0
