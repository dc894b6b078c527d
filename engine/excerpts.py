"""The part of a text that fits a number of tokens, cut where lines begin.

A tail is what is kept of the text before the cursor. Its start must not move by a token with every keystroke, or
nothing of the KV cache would survive: it lies at line numbers divisible by 32, counted from the file's start, unless
that keeps less than half of what would fit (then by 4, by 1, then at multiples of 256 characters).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

Encode = Callable[[str], list[int]]

WIDTH = 10  # characters per token, at most, that are encoded at all (code has 3 to 4): a long file is not read whole
_TYPING_STEP = 32  # tokens
_LINE_STEPS = (32, 4, 1)
_CHARACTER_STEPS = (256, 32)


def tail(text: str, budget: int, encode: Encode) -> tuple[list[int], bool]:
    """Return the ids of the end of `text`, at most `budget`, and whether that is all of it."""
    if budget <= 0:
        return [], not text
    lowest = len(text) - budget * WIDTH
    # While a line is typed its tokens come and go (two become one). It counts in steps, or the cut would go to and fro.
    step = max(1, min(_TYPING_STEP, budget // 16))
    budget -= -len(encode(text[max(text.rfind("\n") + 1, lowest, 0) :])) % step
    if lowest <= 0:
        ids = encode(text)
        if len(ids) <= budget:
            return ids, True
    best: list[int] = []
    for starts in _grids(text, max(lowest, 0)):
        ids = _longest(text, starts, budget, encode)
        best = max(best, ids, key=len)
        if len(best) * 2 >= budget:
            return best, False
    return (best or encode(text[max(lowest, 0) :])[-budget:]), False


def head(text: str, budget: int, encode: Encode) -> list[int]:
    """Return the ids of the beginning of `text`, at most `budget`, ending where a line ends."""
    if budget <= 0:
        return []
    end = min(len(text), budget * WIDTH)
    ids = encode(text[:end])
    while len(ids) > budget or end < len(text):
        if len(ids) <= budget and text[end - 1] == "\n":
            break
        # aim by the density of what was encoded; a line's end before that
        aim = min(end - 1, end * budget // max(len(ids), 1))
        end = text.rfind("\n", 0, aim) + 1
        if end == 0:
            return encode(text[: budget * WIDTH])[:budget]
        ids = encode(text[:end])
    return ids


def _grids(text: str, lowest: int) -> Iterator[list[int]]:
    """Yield lists of allowed starts, ascending, from the coarsest grid to the finest."""
    line, at = text.count("\n", 0, lowest), lowest
    starts: list[tuple[int, int]] = []
    while (at := text.find("\n", at) + 1) > 0:
        line += 1
        starts.append((line, at))
    for step in _LINE_STEPS:
        yield [start for line, start in starts if line % step == 0]
    for step in _CHARACTER_STEPS:
        yield list(range(lowest + -lowest % step, len(text), step))


def _longest(text: str, starts: list[int], budget: int, encode: Encode) -> list[int]:
    """Return the ids from the first start on that leaves at most `budget` tokens; none if there is no such start."""
    total, kept = 0, len(starts)
    for index, (start, end) in reversed(list(enumerate(pairwise([*starts, len(text)])))):
        total += len(encode(text[start:end]))
        if total > budget:
            break
        kept = index
    for start in starts[kept:]:  # encoded as one, the parts may make a token or two more
        ids = encode(text[start:])
        if len(ids) <= budget:
            return ids
    return []
