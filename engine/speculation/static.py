"""Tree shapes that do not depend on the draft: what Sequoia's verification needs (see sequoia.py)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

USUAL_ACCEPTANCE = tuple(0.6 * 0.4**rank for rank in range(8))
"""P(the i-th draw is the accepted one) of a drafter that is right six times in ten, as is each later draw."""


@dataclass(slots=True)
class Shape:
    """A node of a tree shape: one entry per child, in draw order."""

    children: list[Shape] = field(default_factory=list["Shape"])


def best_shape(nodes: int, max_depth: int, acceptance: Sequence[float] = USUAL_ACCEPTANCE) -> Shape:
    """Return the tree of `nodes` nodes below the root that is expected to yield most tokens.

    `acceptance` must not increase. A node is worth the product of the acceptances on its path, so the best tree holds
    the nodes of the largest products: the tree that Sequoia's dynamic programme finds (budget.expected_tokens).
    """
    root = Shape()
    queue: list[tuple[float, int, int, Shape, int]] = []  # -worth, order, depth, parent, rank among its children
    order = 0

    def offer(worth: float, depth: int, parent: Shape, rank: int) -> None:
        nonlocal order
        if depth <= max_depth and rank < len(acceptance):
            heapq.heappush(queue, (-worth * acceptance[rank], order, depth, parent, rank))
            order += 1

    offer(1.0, 1, root, 0)
    for _ in range(nodes):
        if not queue:
            break
        worth, _, depth, parent, rank = heapq.heappop(queue)
        child = Shape()
        parent.children.append(child)
        offer(-worth / acceptance[rank], depth, parent, rank + 1)
        offer(-worth, depth + 1, child, 0)
    return root
