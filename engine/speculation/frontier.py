"""Which nodes of a growing tree are expanded next, and which new ones may enter."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from engine.speculation.tree import TokenTree

BATCH = (
    8,
    1 / 16,
)  # a pass of the drafter takes no further path when it has this many nodes, or this share of the tree's
BATCH_RATIO = 0.05  # a node joins a batch when it promises at least this much of what the batch's best one does


class GrowthPolicy(Protocol):
    """What growing a tree may cost: AutoBudget goes by measured times, AnyCost by nothing."""

    def min_node_probability(self) -> float:
        """Probability of acceptance under which a node is not worth its place in the target's pass."""
        ...

    def free_nodes(self) -> int:
        """How many of the best nodes take a place at no cost, whatever their probability."""
        ...

    def expand(self, gain: float, rows: int) -> bool:
        """Tell whether a drafter pass over `rows` nodes is worth its time.

        `gain`: how many more tokens it should get accepted, less what their verification costs.
        """
        ...

    def record_draft(self, rows: int, seconds: float, gain: float) -> None:
        """Learn what a drafter pass took, and what it gained."""
        ...

    def record_target(self, rows: int, seconds: float) -> None:
        """Learn what a pass of the target took."""
        ...

    def record_step(self, tokens: int, seconds: float, promised: float = 0.0) -> None:
        """Learn what a whole step took and yielded; `promised`: accepted nodes that its tree's scores summed up to."""
        ...


class AnyCost:
    """The policy of a tree that has a given size, whatever it costs."""

    def min_node_probability(self) -> float:
        """Any node may enter."""
        return 0.0

    def free_nodes(self) -> int:
        """No node costs anything: `min_node_probability` says all."""
        return 0

    def expand(self, gain: float, rows: int) -> bool:
        """Any pass that adds nodes may be run."""
        return gain > 0 and rows > 0

    def record_draft(self, rows: int, seconds: float, gain: float) -> None:
        """Times change nothing."""

    def record_target(self, rows: int, seconds: float) -> None:
        """Times change nothing."""

    def record_step(self, tokens: int, seconds: float, promised: float = 0.0) -> None:
        """Times change nothing."""


class Frontier:
    """The unexpanded nodes of a growing tree, and the score that a new node has to beat.

    What an expansion can bring is the probability that the node is accepted and none of its children is: a node whose
    likely continuation came from another source already has little to gain.
    """

    def __init__(
        self, tree: TokenTree, policy: GrowthPolicy, nodes: int, max_depth: int, expanded: Iterable[int] = (0,)
    ) -> None:
        """Start with what is in `tree` already; the nodes `expanded` have their children."""
        self._tree = tree
        self._policy = policy
        self._nodes = nodes
        self._max_depth = max_depth
        self._least = policy.min_node_probability()
        self._free = min(policy.free_nodes(), nodes)
        self._batch = max(BATCH[0], int(nodes * BATCH[1]))
        self._expanded = set(expanded)
        self._queue: list[tuple[float, int]] = []
        self._ranked = sorted(-score for score in tree.scores[1:])
        for node in range(1, len(tree)):
            self._offer(node)

    def add_children(
        self,
        parent: int,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        allowed: Callable[[int], bool] | None = None,
    ) -> float:
        """Add the children of an expanded node that are good enough, and queue the new ones.

        Returns what they gain: the sum of their probabilities, less what their places cost.
        """
        tree, gain = self._tree, 0.0
        base, cutoff = tree.scores[parent], self._cutoff()
        for token, logprob in zip(tokens, logprobs, strict=True):
            score = base + logprob
            if score <= cutoff:
                break
            if allowed is None or allowed(token):
                known = len(tree)
                node = tree.add(parent, token, score)
                if node == known:
                    gain += math.exp(score) - math.exp(cutoff)
                    insort(self._ranked, -score)
                    cutoff = self._cutoff()
                self._offer(node)
        return gain

    def next_batch(self) -> list[int]:
        """Return the nodes to expand next, each after its parent; empty when no pass is worth its time any more."""
        cutoff = self._cutoff()
        batch: list[int] = []
        gain = worst = 0.0
        while self._queue and len(batch) < self._batch and -self._queue[0][0] >= worst:
            value, node = heapq.heappop(self._queue)
            if node in self._expanded or self._tree.scores[node] <= cutoff:
                continue
            worst = worst or -value * BATCH_RATIO
            gain -= value
            batch += self._path_to(node)
        gain -= len(batch) * math.exp(cutoff)  # what one child each costs, or what it takes the place of
        return batch if batch and self._policy.expand(gain, len(batch)) else []

    def _path_to(self, node: int) -> list[int]:
        """Return `node` and those of its ancestors that are not expanded, from the top, and count them as expanded."""
        path: list[int] = []
        while node not in self._expanded:
            self._expanded.add(node)
            path.append(node)
            node = self._tree.parents[node]
        return path[::-1]

    def _offer(self, node: int) -> None:
        tree = self._tree
        if tree.depths[node] < self._max_depth and node not in self._expanded:
            covered = sum(math.exp(tree.scores[child]) for child in tree.children(node).values())
            heapq.heappush(self._queue, (covered - math.exp(tree.scores[node]), node))

    def size(self) -> int:
        """How many of the best nodes are worth verifying."""
        worth = bisect_right(self._ranked, -_log(self._least))
        return min(max(worth, self._free), self._nodes)

    def _cutoff(self) -> float:
        """Score that a node must exceed to be worth verifying."""
        count = len(self._ranked)
        if count < self._free:
            return _log(0)
        cutoff = _log(self._least)
        if self._free:  # it may still take the place of the worst of those that are free
            cutoff = min(cutoff, -self._ranked[self._free - 1])
        return max(cutoff, -self._ranked[self._nodes - 1]) if count >= self._nodes else cutoff


def _log(probability: float) -> float:
    return math.log(max(probability, 1e-30))
