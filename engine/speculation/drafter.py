"""A small model that grows the draft tree, best node first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from engine.speculation.frontier import AnyCost, Frontier, GrowthPolicy
from engine.speculation.sequoia import Probabilities, draw_children
from engine.speculation.static import Shape
from engine.speculation.tree import TokenTree

BRANCHES = 8  # children looked at per node

Asked = Callable[[], bool]  # is the work still wanted? True: no


@dataclass(frozen=True, slots=True)
class Branches:
    """Likely next tokens of the rows that a pass was asked about, best first, with natural log-probabilities."""

    tokens: list[list[int]]
    logprobs: list[list[float]]


class DraftModel(Protocol):
    """A model with a KV cache of its own, seen as a source of likely next tokens."""

    @property
    def context(self) -> int:
        """How many positions it can hold."""
        ...

    def read(self, tokens: Sequence[int], cancelled: Asked) -> int:
        """Read the first of `tokens` into the cache, committed; return how many, 0 if one pass has room for all.

        Raises as `branch`.
        """
        ...

    def branch(
        self, tokens: Sequence[int], parents: Sequence[int], wanted: int, count: int, cancelled: Asked
    ) -> Branches:
        """Run rows (see the Transformer's rows and parents); the last `wanted` of them get `count` branches each.

        Raises Cancelled when `cancelled()` turns true before a layer.
        """
        ...

    def logits(
        self, tokens: Sequence[int], parents: Sequence[int], wanted: int, cancelled: Asked
    ) -> tuple[int, Tensor]:
        """Run rows; return the first of the `wanted` last ones and their logits [wanted, vocab]. Raises as `branch`."""
        ...

    def commit(self, rows: Sequence[int]) -> None:
        """Keep a path of uncommitted rows and forget the others."""
        ...

    def truncate(self, length: int) -> None:
        """Forget committed positions from `length` on, and all uncommitted rows."""
        ...


class ModelDrafter:
    """Best-first growth as in SpecExec (arXiv 2406.02532) and EAGLE-2 (arXiv 2406.16858).

    A node's score is the log-probability of its path under the drafter's full softmax. Each pass expands the best
    unexpanded nodes; children enter while they are among the best of the whole tree.
    """

    def __init__(self, model: DraftModel) -> None:
        """Draft with `model`, whose cache belongs to this drafter alone from now on."""
        self._model = model
        self._cached: list[int] = []  # tokens of the committed positions
        self._chain: list[int] = []  # tokens of the uncommitted rows that lead to the root, the root included
        self._rows: dict[tuple[int, int], int] = {}  # (row of the parent, token) -> row of an expanded node
        self._growth: tuple[TokenTree, dict[int, int]] | None = None  # the last tree, and the rows of expanded nodes
        self._retained: TokenTree | None = None  # what was guessed already below the root to come

    @property
    def context(self) -> int:
        """How many tokens, those of the tree included, it can draft for."""
        return self._model.context

    def reset(self, tokens: Sequence[int]) -> int:
        """Start from other committed tokens; return how many of them are cached already."""
        common = common_prefix(self._cached, tokens)
        self._forget(max(0, min(common, len(tokens) - 1)))
        return len(self._cached)

    def grow(
        self,
        tree: TokenTree,
        tokens: Sequence[int],
        policy: GrowthPolicy,
        nodes: int,
        max_depth: int,
        cancelled: Asked,
        allowed: Callable[[int], bool] | None = None,
    ) -> int:
        """Add likely continuations of `tokens`, the last being the root of `tree`: the best `nodes`, as policy allows.

        `tokens` must extend those of the last `reset` or `accept`. `allowed` filters the root's children. Nodes that
        other sources put into the tree are expanded like its own. Returns how many of the tree's best nodes are worth
        verifying: prune it to them. Raises Cancelled when `cancelled()` says so; then call `abandon`.
        """
        if self._retained:
            tree.graft(self._retained, max_depth)
        self._growth = self._retained = None
        covered = sum(math.exp(tree.scores[node]) for node in tree.children(0).values())
        if max_depth < 1 or not policy.expand(1.0 - covered - policy.min_node_probability(), 1):
            return nodes
        self._chain = self._unread(tokens, cancelled)
        self._rows.clear()
        started = time.perf_counter()
        root_row = len(self._chain) - 1
        count = BRANCHES if allowed is None else 8 * BRANCHES
        branches = self._model.branch(self._chain, range(-1, root_row), 1, count, cancelled)
        rows = {0: root_row}
        frontier = Frontier(tree, policy, nodes, max_depth)
        gain = frontier.add_children(0, branches.tokens[0], branches.logprobs[0], allowed)
        policy.record_draft(len(self._chain), time.perf_counter() - started, gain)
        while batch := frontier.next_batch():
            self._expand(tree, rows, batch, frontier, policy, cancelled)
        self._growth = tree, rows
        return frontier.size()

    def confidence(
        self, tokens: Sequence[int], cancelled: Asked, allowed: Callable[[int], bool] | None = None
    ) -> float:
        """Return the probability of the likeliest token after `tokens`, among those that are `allowed`.

        Reads what of `tokens` is not cached yet; `grow` then need not. Raises Cancelled; then call `abandon`.
        """
        chain = self._unread(tokens, cancelled)
        count = BRANCHES if allowed is None else 8 * BRANCHES
        branches = self._model.branch(chain, range(-1, len(chain) - 1), 1, count, cancelled)
        found = [
            math.exp(logprob)
            for token, logprob in zip(branches.tokens[0], branches.logprobs[0], strict=True)
            if allowed is None or allowed(token)
        ]
        self._model.commit(range(len(chain) - 1))  # the last one is the root, which `grow` runs
        self._cached += chain[:-1]
        return max(found, default=0.0) / (1.0 if allowed is None else sum(found) or 1.0)

    def extend(self, nodes: int, max_depth: int, stop: Asked) -> None:
        """Go on with the last tree that `grow` made, up to `nodes` nodes, until `stop()`; for while the target is busy.

        What is found to continue the text then starts the next tree. The tree that `grow` was given stays as it is.
        """
        if self._growth is None:
            return
        grown, rows = self._growth
        tree = grown.subtree(0)
        self._growth = tree, rows
        policy = AnyCost()
        frontier = Frontier(tree, policy, nodes, max_depth, expanded=rows)
        while len(rows) < nodes and not stop() and (batch := frontier.next_batch()):
            self._expand(tree, rows, batch, frontier, policy, lambda: False)

    def _expand(
        self,
        tree: TokenTree,
        rows: dict[int, int],
        batch: Sequence[int],
        frontier: Frontier,
        policy: GrowthPolicy,
        cancelled: Asked,
    ) -> None:
        """Run the nodes of `batch`, note their `rows`, and offer their likely children to `frontier`."""
        started = time.perf_counter()
        rows |= {node: rows[0] + len(rows) + index for index, node in enumerate(batch)}
        parents = [rows[tree.parents[node]] for node in batch]
        drafted = [tree.tokens[node] for node in batch]
        branches = self._model.branch(drafted, parents, len(batch), BRANCHES, cancelled)
        gain = 0.0
        for offset, (node, parent) in enumerate(zip(batch, parents, strict=True)):
            self._rows[parent, tree.tokens[node]] = rows[node]
            gain += frontier.add_children(node, branches.tokens[offset], branches.logprobs[offset])
        policy.record_draft(len(batch), time.perf_counter() - started, gain)

    def sample(
        self,
        tree: TokenTree,
        tokens: Sequence[int],
        shape: Shape,
        distribution: Callable[[Tensor, Sequence[int]], Probabilities],
        rng: np.random.Generator,
        max_depth: int,
        cancelled: Asked,
    ) -> dict[int, Probabilities]:
        """Grow a tree of the given shape whose children are drawn without replacement; return what each was drawn from.

        `distribution(logits, path)` gives the probabilities [vocab] after the root and the tokens `path`. What of the
        shape is deeper than `max_depth`, at least 1, is left out.
        """
        self._chain = self._unread(tokens, cancelled)
        self._rows.clear()
        drawn_from: dict[int, Probabilities] = {}
        rows: dict[int, int] = {}
        level = [(0, shape)]
        first, logits = self._model.logits(self._chain, range(-1, len(self._chain) - 1), 1, cancelled)
        while True:
            below: list[tuple[int, Shape]] = []
            for index, ((node, wanted), row) in enumerate(zip(level, logits, strict=True)):
                rows[node] = first + index
                drawn_from[node] = distribution(row, [tree.tokens[above] for above in tree.path(node)[1:]])
                drawn = draw_children(_log(drawn_from[node]), len(wanted.children), rng)
                children = [tree.add(node, token, tree.scores[node]) for token in drawn]
                below += zip(children, wanted.children, strict=False)
            max_depth -= 1
            level = [(node, wanted) for node, wanted in below if wanted.children]
            if not level or max_depth == 0:
                return drawn_from
            nodes = [node for node, _ in level]
            drafted, parents = [tree.tokens[node] for node in nodes], [rows[tree.parents[node]] for node in nodes]
            first, logits = self._model.logits(drafted, parents, len(nodes), cancelled)
            self._rows |= {key: first + index for index, key in enumerate(zip(parents, drafted, strict=True))}

    def accept(self, tokens: Sequence[int]) -> None:
        """Keep what is known of `tokens`, which the target put after the root; the rest is computed when needed."""
        self._retained = self._below(tokens)
        self._growth = None
        if not self._chain:
            return
        path = list(range(len(self._chain)))
        row = path[-1]
        kept = list(self._chain)
        for token in tokens[:-1]:  # the last one is the next root, which has to be run to get its children
            found = self._rows.get((row, token))
            if found is None:
                break
            row = found
            path.append(row)
            kept.append(token)
        self._model.commit(path)
        self._cached += kept
        self._chain = []
        self._rows.clear()

    def abandon(self) -> None:
        """Forget the tree that was being grown."""
        self._forget(len(self._cached))

    def _unread(self, tokens: Sequence[int], cancelled: Asked) -> list[int]:
        """Read `tokens` until one pass has room for the rest, and return that; what was read stays when cancelled."""
        rest = list(tokens[len(self._cached) :])
        while read := self._model.read(rest, cancelled):
            self._cached += rest[:read]
            del rest[:read]
        return rest

    def _below(self, tokens: Sequence[int]) -> TokenTree | None:
        """What the last tree guessed to follow `tokens`, or None if it did not come so far."""
        node: int | None = 0 if self._growth else None
        for token in tokens:
            node = self._growth[0].children(node).get(token) if self._growth and node is not None else None
        return self._growth[0].subtree(node) if self._growth and node is not None else None

    def _forget(self, length: int) -> None:
        self._growth = self._retained = None
        self._model.truncate(length)
        del self._cached[length:]
        self._chain = []
        self._rows.clear()


def _log(probabilities: Probabilities) -> Probabilities:
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading items are equal."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
