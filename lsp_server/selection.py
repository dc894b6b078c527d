"""Which pieces of the workspace fit into a prompt, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsp_server.chunks import Chunk
from lsp_server.definitions import Definition
from lsp_server.exclusions import Exclusions
from lsp_server.similarity import jaccard, share, telling_lines, words

_NEAR_DUPLICATE = 0.5  # of its lines: the cursor's surroundings say them already
_LOYALTY = 1.25  # a piece that is in the prompt already must be clearly worse to be replaced
_DEFINITIONS_SHARE = 2  # definitions get at most one half, if chunks need the other
_FEWEST_LINES = 4


@dataclass(frozen=True, slots=True)
class Item:
    """One piece. Two items are the same if all of this is."""

    uri: str
    path: Path | None
    label: str
    name: str
    text: str

    @property
    def is_definition(self) -> bool:
        """Whether it is a definition, not a chunk."""
        return bool(self.name)


def items_of(definitions: Iterable[Definition], chunks: Iterable[Chunk], exclusions: Exclusions) -> list[Item]:
    """List definitions, then chunks, in their order: from the most stable to the most volatile."""
    items = [
        Item(each.uri, each.path, exclusions.label(each.path, ""), each.name, each.text)
        for each in definitions
        if each.text
    ]
    items += [Item(each.uri, each.path, exclusions.label(each.path, each.uri), "", each.text) for each in chunks]
    return items


def select(items: Sequence[Item], before: Sequence[Item], surroundings: Sequence[str], budget: int) -> tuple[Item, ...]:
    """Choose what fits into `budget` characters: what has most in common with the cursor's surroundings.

    What was chosen `before` and is again keeps its place; what is new follows, in the order of `items`.
    """
    kept_before = frozenset(before)
    near, near_words = telling_lines(surroundings), words(surroundings)
    scores: dict[Item, float] = {}
    for age, item in enumerate(items):
        lines = item.text.splitlines()
        telling = telling_lines(lines)
        if len(telling) >= _FEWEST_LINES and share(telling, near) > _NEAR_DUPLICATE:
            continue
        if item.is_definition:
            score = 1.0 if item.name in near_words else 0.5
        else:
            score = jaccard(words(lines), near_words) + age * 1e-3  # among equals the newer one
            score += age == len(items) - 1  # where somebody was last, usually to edit: always of interest
        scores[item] = score * (_LOYALTY if item in kept_before else 1.0)
    chunk_size = sum(_cost(item) for item in scores if not item.is_definition)
    most = min(budget, max(budget // _DEFINITIONS_SHARE, budget - chunk_size))
    chosen = _best([item for item in scores if item.is_definition], scores, most)
    left = budget - sum(map(_cost, chosen))
    chosen |= _best([item for item in scores if not item.is_definition], scores, left)
    staying = [item for item in before if item in chosen]
    return (*staying, *(item for item in scores if item in chosen and item not in kept_before))


def _best(items: Sequence[Item], scores: dict[Item, float], budget: int) -> set[Item]:
    chosen: set[Item] = set()
    for item in sorted(items, key=lambda item: -scores[item]):
        if _cost(item) <= budget:
            chosen.add(item)
            budget -= _cost(item)
    return chosen


def _cost(item: Item) -> int:
    return len(item.text) + len(item.label) + 1
