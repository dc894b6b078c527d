"""Which nodes of a growing tree are expanded next, and which new ones may enter."""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Callable, Sequence
from typing import Protocol

from engine.speculation.tree import TokenTree

BATCH = 8  # nodes expanded by one pass of the drafter
BATCH_RATIO = 0.25  # a node joins a batch when it is at least this likely compared with the batch's best


class GrowthPolicy(Protocol):
    """What growing a tree may cost: AutoBudget goes by measured times, AnyCost by nothing."""

    def min_node_probability(self) -> float:
        """Probability of acceptance under which a node is not worth its place in the target's pass."""
        ...

    def expand(self, gain: float, rows: int) -> bool:
        """Tell whether a drafter pass over `rows` nodes, likely to add `gain` accepted tokens, is worth its time."""
        ...

    def record_draft(self, rows: int, seconds: float) -> None:
        """Learn what a drafter pass took."""
        ...


class AnyCost:
    """The policy of a tree that has a given size, whatever it costs."""

    def min_node_probability(self) -> float:
        """Any node may enter."""
        return 0.0

    def expand(self, gain: float, rows: int) -> bool:
        """Any pass that adds nodes may be run."""
        return gain > 0 and rows > 0

    def record_draft(self, rows: int, seconds: float) -> None:
        """Times change nothing."""

    def record_target(self, rows: int, seconds: float) -> None:
        """Times change nothing."""

    def record_step(self, tokens: int, seconds: float) -> None:
        """Times change nothing."""


class Frontier:
    """The unexpanded nodes of a growing tree, and the score that a new node has to beat."""

    def __init__(self, tree: TokenTree, policy: GrowthPolicy, nodes: int, max_depth: int) -> None:
        self._tree = tree
        self._policy = policy
        self._nodes = nodes
        self._max_depth = max_depth
        self._floor = math.log(max(policy.min_node_probability(), 1e-30))
        self._queue: list[tuple[float, int]] = []
        self._ranked = sorted(-score for score in tree.scores[1:])

    def cutoff(self) -> float:
        """Score that a node must exceed to be among the best of the tree."""
        full = len(self._ranked) >= self._nodes
        return max(self._floor, -self._ranked[self._nodes - 1]) if full else self._floor

    def add_children(
        self,
        parent: int,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        allowed: Callable[[int], bool] | None = None,
    ) -> None:
        """Add the children of an expanded node that are good enough, and queue them beside those already there."""
        tree = self._tree
        base, cutoff = tree.scores[parent], self.cutoff()
        for token, logprob in zip(tokens, logprobs, strict=True):
            score = base + logprob
            if score <= cutoff:
                break
            if allowed is None or allowed(token):
                known = len(tree)
                if tree.add(parent, token, score) == known:
                    insort(self._ranked, -score)
                    cutoff = self.cutoff()
        if tree.depths[parent] + 1 < self._max_depth:
            for node in tree.children(parent).values():
                heapq.heappush(self._queue, (-tree.scores[node], node))

    def next_batch(self) -> list[int]:
        """Return the nodes to expand next; empty when no pass of the drafter is worth its time any more."""
        cutoff = self.cutoff()
        batch: list[int] = []
        gain = worst = 0.0
        while self._queue and len(batch) < BATCH and -self._queue[0][0] > cutoff:
            probability = math.exp(-self._queue[0][0])
            if probability < worst:
                break
            worst = worst or probability * BATCH_RATIO
            gain += probability
            batch.append(heapq.heappop(self._queue)[1])
        return batch if batch and self._policy.expand(gain, len(batch)) else []
