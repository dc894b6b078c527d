"""Chunks: pieces of files of about a screen, cut where definitions begin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from lsp_server.similarity import jaccard, telling_lines, words
from lsp_server.source_text import SourceText

CHUNK_LINES = 64
CHUNK_CHARACTERS = 3000
_ABOVE = 40  # lines above the place of interest that are searched for a beginning
_SAME = 0.7  # of the lines: two chunks are the same piece of code

_MODIFIER = (
    r"(?:pub(?:\([\w ]+\))?|export|default|public|private|protected|internal|static|final|abstract|async|sealed|"
    r"override|virtual|unsafe|extern|inline|partial|open|data|declare|suspend)\s+"
)
_KEYWORD = (
    r"(?:def|class|fn|func|fun|function|impl|struct|enum|trait|interface|module|namespace|type|object|record|union)"
)
_NAMED = rf"\s*(?:{_MODIFIER})*{_KEYWORD}\b(?:\*?\s+[\w$(*<]|<)"
_DEFINITION = re.compile(rf"{_NAMED}|(?:export\s+)?(?:const|let|var)\s+\w+\s*[:=]|\s*@\w|\s*#\[")
_LEADING = re.compile(r"\s*(?:@\w|#|//|/\*|\*|--|;;)")  # decorators and comments, which belong to what is below


@dataclass(frozen=True)
class Chunk:
    """Some lines of a document, as they were at one moment; `start` counts from 0."""

    uri: str
    path: Path | None
    start: int
    lines: tuple[str, ...]

    @cached_property
    def text(self) -> str:
        """The lines, each with a line feed."""
        return "".join(line + "\n" for line in self.lines)

    @cached_property
    def telling_lines(self) -> frozenset[str]:
        """What it is compared by with other chunks."""
        return telling_lines(self.lines)

    @cached_property
    def words(self) -> frozenset[str]:
        """What it is compared by with the place of the cursor."""
        return words(self.lines)

    def is_same_code(self, other: Chunk) -> bool:
        """Say whether one is little else than a copy of the other."""
        return self.text == other.text or jaccard(self.telling_lines, other.telling_lines) > _SAME

    def overlaps(self, other: Chunk) -> bool:
        """Say whether both are of one file and share lines of it."""
        if self.uri != other.uri:
            return False
        return self.start < other.start + len(other.lines) and other.start < self.start + len(self.lines)


def cut_chunk(
    source: SourceText, line: int, size: int = CHUNK_LINES, most_characters: int = CHUNK_CHARACTERS
) -> Chunk | None:
    """Cut at most `size` lines around a line (from 0); None if there is nothing but blank lines.

    It begins at a definition, the outermost and the furthest up that leaves the line inside, or else behind a blank
    line; it ends before a definition or a blank line if that does not halve it.
    """
    lines = source.lines
    line = max(0, min(line, len(lines) - 1))
    start = _begin(lines, line, size)
    end = min(len(lines), start + size)
    if end < len(lines):
        lowest = max(line + 1, start + size // 2)
        end = next((at for at in range(end, lowest - 1, -1) if _is_boundary(lines, at)), end)
    kept = [text.rstrip("\r\n") for text in lines[start:end]]
    sizes = accumulate(len(text) + 1 for text in kept)
    kept = kept[: sum(size <= most_characters for size in sizes)]
    while kept and not kept[-1].strip():
        kept.pop()
    while kept and not kept[0].strip():
        kept.pop(0)
        start += 1
    return Chunk(source.uri, source.path, start, tuple(kept)) if kept else None


def first_definition(source: SourceText) -> int:
    """Return the line of the first definition, 0 if there is none: what an unknown file is about stands there."""
    matches = (number for number, line in enumerate(source.lines) if _DEFINITION.match(line))
    return next(matches, 0)


def _begin(lines: Sequence[str], line: int, size: int) -> int:
    highest = max(0, line - min(_ABOVE, size - size // 4))
    starts = [at for at in range(highest, line + 1) if _DEFINITION.match(lines[at])] if lines else []
    if starts:
        outermost = min(_indent(lines[at]) for at in starts)
        at = next(at for at in starts if _indent(lines[at]) == outermost)
        while at > highest and _LEADING.match(lines[at - 1]) and _indent(lines[at - 1]) == outermost:
            at -= 1
        return at
    highest = max(0, line - size // 2)
    blank = (at for at in range(highest, line) if not lines[at].strip())
    return next(blank, highest)


def _is_boundary(lines: Sequence[str], at: int) -> bool:
    """Say whether a chunk may well end before the line `at`."""
    if not lines[at].strip():
        return True
    return _DEFINITION.match(lines[at]) is not None and not _LEADING.match(lines[at - 1])


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
