"""What a suggestion must not do, judged by what a typist sees. Pure: nothing here knows how suggestions come about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shown = Literal["new", "same", "longer", "jumped", "vanished", "nothing"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a suggestion was asked for: a row and a column from 0, in characters, and the row's text at that time."""

    row: int
    column: int
    line: str


@dataclass(frozen=True, slots=True)
class Offered:
    """A suggestion: `text` in place of the characters from (row, start) to (end_row, end)."""

    text: str
    row: int
    start: int
    end_row: int
    end: int

    def rest(self, place: Place) -> str:
        """What of it is still to come at `place`, in whose row it is."""
        return self.text[place.column - self.start :]


def fault(offered: Offered, place: Place) -> str:
    """Say why the suggestion was made for another text than that of `place`; nothing if it fits.

    What it replaces before the cursor must be the beginning of its text: editors show no other, and what is typed would
    be doubled or lost. What it replaces behind the cursor must come again in its text, in the same order.
    """
    if offered.row != place.row or offered.end_row != place.row:
        return f"it is for row {offered.row}, the cursor is in row {place.row}"
    if not offered.start <= place.column <= offered.end <= len(place.line):
        return f"its columns {offered.start} to {offered.end} do not hold the cursor's {place.column}"
    before, behind = place.line[offered.start : place.column], place.line[place.column : offered.end]
    if not offered.text.startswith(before):
        return f"it replaces {before!r} and begins with {offered.text[: len(before)]!r}"
    rest = iter(offered.rest(place))
    if not all(char in rest for char in behind):
        return f"it takes {behind!r} away from behind the cursor"
    return ""


class Screen:
    """The suggestion that a typist sees ahead of the cursor, as it changes with answers and keys."""

    def __init__(self) -> None:
        self.rest = ""

    def typed(self, text: str) -> bool:
        """Note what was typed, as it appears; say whether it agreed with what was shown. If not, nothing is shown."""
        agreed = bool(text) and self.rest.startswith(text)
        self.rest = self.rest[len(text) :] if agreed else ""
        return agreed

    def clear(self) -> None:
        """Something else than typing has happened: the suggestion is gone."""
        self.rest = ""

    def show(self, rest: str, tail: str) -> Shown:
        """Note an answer: `rest` is to be inserted, and `tail` stands behind it then. Say what the typist sees happen.

        The text ahead of the cursor as a whole counts: whether a bracket is part of the suggestion or stands there
        already is no difference to see. Nothing jumps where nothing was shown.
        """
        was, self.rest = self.rest, rest
        if not was.strip():
            return "new" if rest else "nothing"
        if not rest:
            return "vanished"
        if not (rest + tail).startswith(was):
            return "jumped"
        return "longer" if len(rest) > len(was) else "same"
