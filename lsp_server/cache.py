"""Suggestions that were made: they answer as long as what is typed goes along with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lsp_server.generation import Generation
from lsp_server.view import WINDOW_AFTER, WINDOW_BEFORE, View

LARGEST = 200  # generations, of a few kilobytes each
_CLOSING = {"(": ")", "[": "]", "{": "}", '"': '"', "'": "'", "`": "`"}


@dataclass(frozen=True, slots=True)
class Hit:
    """A generation that reaches the place asked about.

    `typed`: what has been typed since. `text`: what the model says in place of and behind it; it begins with `typed`.
    `closed`: characters that the editor has put behind the cursor meanwhile, closing what was typed; below zero, so
    many of those that stood there were typed over. `branch`: whether the text left the generation's own for one that
    was verified beside it.
    """

    generation: Generation
    typed: str
    text: str
    closed: int = 0
    branch: bool = False


class SuggestionCache:
    """The latest generations, the most recently used last."""

    def __init__(self) -> None:
        self._generations: list[Generation] = []

    def add(self, generation: Generation) -> None:
        """Keep a generation, in place of the one used least if there are too many."""
        self._generations.append(generation)
        if len(self._generations) > LARGEST:
            self._generations.pop(0)

    def find(self, view: View) -> Hit | None:
        """Return what is known to follow at `view`; a generation's own text before its branches."""
        hits = list(self._hits(view))
        best = next((hit for hit in hits if not hit.branch), hits[0] if hits else None)
        if best is not None:
            self._generations.remove(best.generation)
            self._generations.append(best.generation)
        return best

    def at(self, view: View) -> Generation | None:
        """Return the latest generation for exactly this place, whatever has come of it."""
        place = view.line, view.column
        here = (each for each in reversed(self._generations) if (each.view.line, each.view.column) == place)
        same = (each for each in here if typed_since(each.view, view) == ("", 0))
        return next((each for each in same if not each.broken), None)

    def forget(self, uri: str) -> None:
        """Drop what belongs to a document."""
        self._generations = [each for each in self._generations if each.view.uri != uri]

    def clear(self) -> None:
        """Drop everything."""
        self._generations.clear()

    def _hits(self, view: View) -> Iterator[Hit]:
        for generation in reversed(self._generations):
            if generation.broken or view.line - generation.view.line > _lines(generation):
                continue  # what was typed since has more lines than what is known: most old ones are found out so
            found = typed_since(generation.view, view)
            if found is None:
                continue
            typed, closed = found
            text = generation.text
            if text.startswith(typed) and (len(text) > len(typed) or not generation.done):
                yield Hit(generation, typed, text, closed)
            elif generation.live and typed.startswith(text) and not text:
                continue  # nothing is known yet: whether it will go along, nobody can say
            else:
                for branch in generation.branches:
                    other = text[: branch.offset] + branch.text
                    if other.startswith(typed) and len(other) > len(typed):
                        yield Hit(generation, typed, other, closed, branch=True)


def _lines(generation: Generation) -> int:
    """Return how many lines further down than its place a generation can reach, its branches included."""
    branches = max((each.text.count("\n") for each in generation.branches), default=0)
    return generation.text.count("\n") + branches


def typed_since(origin: View, view: View) -> tuple[str, int] | None:
    """Return what was typed at `origin` to come to `view`, and how many closers the editor put behind it.

    Less than none, if some that stood behind it were typed over. None if the two are not so related: another document,
    text changed elsewhere nearby, or a place before the origin.
    """
    if origin.uri != view.uri or view.line < origin.line:
        return None
    start = len(view.before) - view.column
    for _ in range(view.line - origin.line):
        start = _line_start(view.before, start - 1)
        if start < 0:
            return None
    start += origin.column
    if start > len(view.before):
        return None
    stem, typed = view.before[max(0, start - WINDOW_BEFORE) : start], view.before[start:]
    if stem != origin.before[-WINDOW_BEFORE:]:
        return None
    closed = _closed(typed, origin.after[:WINDOW_AFTER], view.after[: WINDOW_AFTER + 8])
    return None if closed is None else (typed, closed)


def _line_start(text: str, end: int) -> int:
    """Return where the line that ends with the break before `end` begins; -1 if there is none."""
    if end < 0:
        return -1
    return text.rfind("\n", 0, end) + 1


def _closed(typed: str, was: str, now: str) -> int | None:
    """Return how many characters stand before `was` in `now`, all of which close what was typed; None if others do.

    Below zero: so many closers stood at the beginning of `was`, and have been typed over.
    """
    closers = "".join(reversed([_CLOSING[char] for char in typed if char in _CLOSING]))
    for count in range(min(len(closers), 4) + 1):
        whole = len(was) < WINDOW_AFTER  # then it is all that follows
        same = now[count:] == was if whole else now[count : count + len(was)] == was
        if same and all(char in closers for char in now[:count]):
            return count
    for count in range(1, 5):
        over, rest = was[:count], was[count:]
        if len(over) < count or not all(char in _CLOSING.values() for char in over):
            break
        if (now == rest or (len(was) == WINDOW_AFTER and now.startswith(rest))) and _in_order(over, typed):
            return -count
    return None


def _in_order(chars: str, text: str) -> bool:
    """Whether all of `chars` occur in `text`, one behind the other."""
    left = iter(text)
    return all(char in left for char in chars)
