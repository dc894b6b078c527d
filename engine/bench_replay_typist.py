"""Somebody who types a given text: key by key, with slips, detours, and an editor that closes brackets and indents.

Pure but for `chance`: the same seed and the same suggestions give the same keys.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

_CLOSING = {"(": ")", "[": "]", "{": "}", '"': '"', "'": "'"}
_OPENING = "([{:"
_SLIPS = "abcdefghijklmnopqrstuvwxyz"
_NEAR = 40  # lines above the cursor, to which detours lead
FASTEST, USUAL, SLOWEST = 0.04, 0.11, 0.3  # seconds from key to key


@dataclass(frozen=True, slots=True)
class Habits:
    """Shares: of keys that are slips, of texts with a detour, of texts whose right suggestions are accepted."""

    slips: float = 0.04
    detours: float = 0.25
    accepts: float = 0.5


@dataclass(frozen=True, slots=True)
class Stroke:
    """One key: `text` replaces `back` characters before and `ahead` characters behind the cursor.

    The cursor then stands behind the first `cursor` characters of it. "move": it only goes to `to`, an offset.
    """

    kind: Literal["type", "delete", "move", "accept"]
    text: str = ""
    back: int = 0
    ahead: int = 0
    cursor: int = 0
    to: int = 0


@dataclass(slots=True)
class Page:
    """The text around the cursor."""

    before: str
    after: str

    @property
    def text(self) -> str:
        """All of it."""
        return self.before + self.after

    def apply(self, stroke: Stroke) -> None:
        """Do what a key does."""
        if stroke.kind == "move":
            text = self.text
            self.before, self.after = text[: stroke.to], text[stroke.to :]
            return
        self.before = self.before[: len(self.before) - stroke.back] + stroke.text[: stroke.cursor]
        self.after = stroke.text[stroke.cursor :] + self.after[stroke.ahead :]


@dataclass(slots=True)
class Errand:
    """A piece of text to be typed at one place. `closed`: what the editor has put behind the cursor to close it."""

    todo: str
    closed: str = ""


@dataclass(slots=True)
class Typist:
    """Types `todo` on `page`. `hole`: offset and text of something that is missing further up, for a detour."""

    page: Page
    todo: str
    chance: random.Random
    habits: Habits = field(default_factory=Habits)
    hole: tuple[int, str] | None = None
    _errand: Errand = field(init=False)
    _suspended: tuple[Errand, int] | None = None  # while on a detour; the offset is counted from the end
    _turn: int = 0
    _surplus: int = 0
    accepting: bool = field(init=False)

    def __post_init__(self) -> None:
        self._errand = Errand(self.todo)
        self._turn = self.chance.randrange(len(self.todo) + 1) if self.hole else -1
        self.accepting = self.chance.random() < self.habits.accepts

    def gap(self) -> float:
        """Seconds until the next key."""
        return self.chance.triangular(FASTEST, SLOWEST, USUAL)

    def next(self) -> Stroke | None:
        """The next key; None when everything is typed. It must be applied to the page."""
        errand = self._errand
        if self._surplus:
            stroke, self._surplus = Stroke("delete", back=self._surplus), 0
            return stroke
        if self.hole and self._suspended is None and len(errand.todo) <= self._turn:
            return self._go()
        if errand.todo:
            return self._key(errand)
        if errand.closed:
            stroke, errand.closed = Stroke("delete", ahead=len(errand.closed)), ""
            return stroke
        return self._come_back() if self._suspended else None

    def accept(self, rest: str, covers: int) -> Stroke | None:
        """Take the suggestion `rest`, which replaces `covers` characters behind the cursor, if its first line is right.

        All of it if all is right, otherwise its first line.
        """
        errand = self._errand
        line, _, more = rest.partition("\n")
        wanted, _, _ = errand.todo.partition("\n")
        if self._surplus or not self.accepting or len(line.strip()) < 2 or not errand.todo.startswith(line):
            return None
        if covers > len(errand.closed) or not errand.closed[covers:].startswith(wanted[len(line) :]):
            return None
        text = rest if more and errand.todo.startswith(rest) else line
        errand.todo, errand.closed = errand.todo[len(text) :], errand.closed[covers:]
        return Stroke("accept", text, ahead=covers, cursor=len(text))

    # --- keys --------------------------------------------------------------------------------------------------------

    def _key(self, errand: Errand) -> Stroke:
        char = errand.todo[0]
        if char != "\n" and self.chance.random() < self.habits.slips:
            self._surplus = 1
            return _typed(self.chance.choice([each for each in _SLIPS if each != char]))
        errand.todo = errand.todo[1:]
        if char == "\n":
            return self._enter(errand)
        if errand.closed[:1] == char and self.page.after.startswith(char):
            errand.closed = errand.closed[1:]
            return Stroke("type", char, ahead=1, cursor=1)  # over the one that is there
        if char in _CLOSING and self._closes(char):
            errand.closed = _CLOSING[char] + errand.closed
            return Stroke("type", char + _CLOSING[char], cursor=1)
        return _typed(char)

    def _closes(self, char: str) -> bool:
        """Whether an editor would close what is opened here: not before text, no quote behind a word or a quote."""
        after, last = self.page.after[:1], self.page.before[-1:]
        if after and not after.isspace() and after not in ")]}":
            return False
        return char not in "\"'" or not (last.isalnum() or last in ("_", '"', "'"))

    def _enter(self, errand: Errand) -> Stroke:
        """A new line, with the indentation that the editor gives it; what is wrong with that, the next key corrects."""
        line = self.page.before.rpartition("\n")[2]
        given = line[: len(line) - len(line.lstrip(" \t"))]
        if line.rstrip()[-1:] and line.rstrip()[-1] in _OPENING:
            given += "    "
        todo = errand.todo
        wanted = todo[: len(todo) - len(todo.lstrip(" \t"))]
        same = 0
        while same < min(len(given), len(wanted)) and given[same] == wanted[same]:
            same += 1
        self._surplus = len(given) - same
        errand.todo = todo[same:]
        return _typed("\n" + given)

    # --- detours -----------------------------------------------------------------------------------------------------

    def _go(self) -> Stroke:
        assert self.hole is not None
        offset, text = self.hole
        self.hole = None
        self._suspended = self._errand, len(self.page.after)
        self._errand = Errand(text)
        return Stroke("move", to=offset)

    def _come_back(self) -> Stroke:
        assert self._suspended is not None
        self._errand, behind = self._suspended
        self._suspended = None
        return Stroke("move", to=len(self.page.text) - behind)


def make_typist(
    prefix: str, suffix: str, expected: str, least: int, chance: random.Random, habits: Habits
) -> tuple[str, Typist]:
    """Return the text that is there at first, and somebody at `prefix` who types `expected` into it.

    Lines of the suffix are typed too, until at least `least` characters have been.
    """
    while len(expected) < least and suffix.startswith("\n") and len(suffix) > 1:
        end = suffix.find("\n", 1)
        end = len(suffix) if end < 0 else end
        expected, suffix = expected + suffix[:end], suffix[end:]
    hole = _hole(prefix, chance) if chance.random() < habits.detours else None
    if hole is not None:
        prefix = prefix[: hole[0]] + prefix[hole[0] + len(hole[1]) :]
    page = Page(prefix, suffix)
    return page.text, Typist(page, expected, chance, habits, hole)


def _hole(prefix: str, chance: random.Random) -> tuple[int, str] | None:
    """Choose the last characters of a line above the cursor's."""
    lines = prefix.split("\n")
    near = range(max(0, len(lines) - 1 - _NEAR), len(lines) - 1)
    rows = [row for row in near if len(lines[row].strip()) >= 12]
    if not rows:
        return None
    row = chance.choice(rows)
    size = chance.randint(4, min(12, len(lines[row].strip())))
    end = len("\n".join(lines[: row + 1]))
    return end - size, prefix[end - size : end]


def _typed(text: str) -> Stroke:
    return Stroke("type", text, cursor=len(text))
