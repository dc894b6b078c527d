"""Where pasted lines came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lsp_server.similarity import telling_lines
from lsp_server.source_text import SourceText

_FEWEST = 2  # lines that say something; fewer may be the same by chance
_STEP = 1024  # a power of four, lines


def pasted_lines(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Return the lines that one edit put in, without line breaks; none if too few tell anything, or a line was split.

    Only an edit that adds lines is looked at, so that typing costs nothing.
    """
    if len(after) <= len(before):
        return []
    old, new = list(before), list(after)
    start = _common(old, new)
    end = min(_common(old[::-1], new[::-1]), len(old) - start)
    changed = [line.rstrip("\r\n") for line in new[start : len(new) - end]]
    replaced = "".join("".join(old[start : len(old) - end]).split())
    if len(telling_lines(changed)) < _FEWEST or "".join("".join(changed).split()) == replaced:
        return []
    return changed


def _common(one: list[str], other: list[str]) -> int:
    """Return how many lines both begin with, at the speed with which lists are compared."""
    at, step = 0, _STEP
    most = min(len(one), len(other))
    while step:
        while at + step <= most and one[at : at + step] == other[at : at + step]:
            at += step
        step //= 4
    return at


def find_lines(pasted: Sequence[str], documents: Iterable[SourceText]) -> tuple[SourceText, int] | None:
    """Return the document that holds the lines, and where (from 0).

    Indentation may differ, as editors adapt it; so may the first and the last line, which an edit may put in by half.
    """
    stripped = [line.strip() for line in pasted]
    anchor = max(telling_lines(stripped[1:-1]) or stripped, key=len)
    number = stripped.index(anchor)
    for document in documents:
        lines = document.lines
        places = (at - number for at, line in enumerate(lines) if anchor in line)
        for start in places:
            if start >= 0 and start + len(stripped) <= len(lines) and _stands_at(stripped, lines, start):
                return document, start
    return None


def _stands_at(stripped: Sequence[str], lines: Sequence[str], start: int) -> bool:
    same = [line == lines[start + number].strip() for number, line in enumerate(stripped)]
    found = telling_lines(line for line, equal in zip(stripped, same, strict=True) if equal)
    return all(same[1:-1]) and len(found) >= _FEWEST
