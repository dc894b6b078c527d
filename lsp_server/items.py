"""What an editor gets of a completion: items that replace text on the cursor's line. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from engine.request import Branch
from lsp_server.ask import Item
from lsp_server.cache import Hit
from lsp_server.generation import Generation
from lsp_server.suggestion import Shown, against_closers
from lsp_server.view import View


def branching(text: str, branches: Sequence[Branch], start: int, end: int) -> list[str]:
    """Return the texts of branches that leave `text` between two places, the likeliest first."""
    near = sorted((each for each in branches if start <= each.offset <= end), key=lambda each: -each.logprob)
    return [text[: each.offset] + each.text for each in near]


def steady(generation: Generation, shown: Shown) -> Shown:
    """Return what was shown before, if the new text is no continuation of it: nothing jumps under the typist's eyes."""
    if generation.shown and not shown.text.startswith(generation.shown):
        return Shown(generation.shown, shown.complete, shown.covers)
    return shown


def item_of(hit: Hit, shown: Shown, view: View) -> Item | None:
    """Return what replaces the text from where the suggestion begins, or None if nothing is left of it.

    While the typing stays on its line, the item is the same with every key: an editor need not draw it anew.
    """
    rest = shown.text[len(hit.typed) :]
    if not shown.text.startswith(hit.typed) or not rest.strip():
        return None
    rest, covers = against_closers(rest, view) if hit.closed else (rest, shown.covers)
    if not rest.strip():
        return None
    end = view.end + covers
    if view.head:
        return Item(view.head + rest, view.anchor, end)
    origin = hit.generation.view
    if origin.line == view.line:
        return Item(hit.typed + rest, origin.column, end)
    return Item(rest, view.column, end)
