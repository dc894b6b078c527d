"""A tree of draft tokens that hangs off the last committed token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


class TokenTree:
    """Draft tokens with their parents and cumulative log-probabilities, in order of insertion.

    Node 0 is the root, the last committed token; a parent always comes before its children, and two children of one
    node never hold the same token. `scores` estimate log P(node is accepted), so no score exceeds its parent's.
    The lists are for reading; only `add` changes them.
    """

    __slots__ = ("_children", "depths", "parents", "scores", "tokens")

    def __init__(self, root_token: int) -> None:
        """A tree of the root alone: parent -1, depth 0, score 0."""
        self.tokens: list[int] = [root_token]
        self.parents: list[int] = [-1]
        self.depths: list[int] = [0]
        self.scores: list[float] = [0.0]
        self._children: list[dict[int, int]] = [{}]

    def __len__(self) -> int:
        """Number of nodes, the root included."""
        return len(self.tokens)

    def add(self, parent: int, token: int, score: float) -> int:
        """Node of `token` under `parent`: a new one, or the existing equal child with the higher of the two scores.

        `score` is the cumulative log-probability from the root; it is capped at the parent's.
        """
        score = min(score, self.scores[parent])
        siblings = self._children[parent]
        node = siblings.get(token)
        if node is not None:
            if score > self.scores[node]:
                self.scores[node] = score
            return node
        node = siblings[token] = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.scores.append(score)
        self._children.append({})
        return node

    def promise(self) -> float:
        """How many nodes should be accepted if the scores are right."""
        return sum(map(math.exp, self.scores)) - 1

    def children(self, node: int) -> Mapping[int, int]:
        """Children of `node`, token -> node, in order of insertion."""
        return self._children[node]

    def path(self, node: int) -> list[int]:
        """Nodes from the root to `node`, both included."""
        nodes = [node]
        while (node := self.parents[node]) >= 0:
            nodes.append(node)
        nodes.reverse()
        return nodes

    def prune(self, budget: int) -> TokenTree:
        """The root and the `budget` best other nodes, re-indexed in the same order.

        Higher scores first; a parent outranks its child; ties by order of insertion.
        """
        if len(self.tokens) <= budget + 1:
            return self
        # No score exceeds its parent's and a parent is inserted first, so a stable sort keeps every ancestor.
        best = sorted(range(1, len(self.tokens)), key=self.scores.__getitem__, reverse=True)[: max(budget, 0)]
        best.sort()
        return self._select([0, *best])

    def subtree(self, node: int) -> TokenTree:
        """What hangs below `node`, with `node` as the root and scores relative to it."""
        inside = [node]
        kept = {node}
        for index in range(node + 1, len(self.tokens)):
            if self.parents[index] in kept:
                kept.add(index)
                inside.append(index)
        return self._select(inside)

    def graft(self, other: TokenTree, max_depth: int) -> None:
        """Add what hangs below the root of `other`, down to `max_depth`, below this root."""
        index = [0]
        for node in range(1, len(other)):
            if other.depths[node] <= max_depth:
                index.append(self.add(index[other.parents[node]], other.tokens[node], other.scores[node]))
            else:
                index.append(-1)  # nor are those below it

    def _select(self, nodes: Sequence[int]) -> TokenTree:
        """A tree of the given nodes: the new root, then descendants, each after its parent."""
        root, *others = nodes
        tree = TokenTree(self.tokens[root])
        base = self.scores[root]
        index = {root: 0}
        for node in others:
            index[node] = tree.add(index[self.parents[node]], self.tokens[node], self.scores[node] - base)
        return tree
