"""Sequoia's verification by sampling without replacement (Chen et al. 2024, arXiv 2402.12374, algorithm 2).

An alternative to `verifier.verify` at temperature > 0: exact in distribution rather than token for token, and only
for trees whose children were drawn by `draw_children` and kept regardless of what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.speculation.tree import TokenTree
from engine.speculation.verifier import Verdict

Probabilities = NDArray[np.float64]


def draw_children(logprobs: NDArray[np.floating], count: int, rng: np.random.Generator) -> list[int]:
    """Up to `count` tokens drawn without replacement, in draw order (Gumbel top-k, Kool et al. 2019).

    `logprobs`: [vocab], -inf for tokens that cannot be drawn; normalisation does not matter. Fewer tokens come back
    when fewer can be drawn.
    """
    keys = logprobs + rng.gumbel(size=len(logprobs))
    best = np.argpartition(-keys, count)[:count] if 0 <= count < len(keys) else np.arange(len(keys))
    ordered = best[np.argsort(-keys[best])]
    return [int(token) for token in ordered if keys[token] > -np.inf]


def sequoia_verify(
    tree: TokenTree,
    draft: Callable[[int], Probabilities],
    target: Callable[[int, Sequence[int]], Probabilities],
    rng: np.random.Generator,
) -> Verdict:
    """Walk down from the root, accepting at most one child per node, so that tokens follow the target's distribution.

    The children of each node must be in draw order. `draft(node)` is the distribution [vocab] that they were drawn
    from; it is asked only of nodes with children. `target(node, path)` is the target's distribution [vocab] after
    `node`; `path` as in `verify`. `rng` must give fresh randomness at every step.
    """
    node = 0
    nodes: list[int] = []
    tokens: list[int] = []
    while True:
        children = tree.children(node)
        residual = target(node, tokens)
        token = _accept(list(children), draft(node), residual, rng) if children else _sample(residual, rng)
        tokens.append(token)
        child = children.get(token)
        if child is None:
            return Verdict(nodes, tokens)
        nodes.append(child)
        node = child


def _accept(drawn: Sequence[int], draft: Probabilities, target: Probabilities, rng: np.random.Generator) -> int:
    """The accepted token of `drawn`, or a sample of what the target has left when all are rejected."""
    draft = draft / draft.sum()
    residual = target / target.sum()
    for token in drawn:
        if draft[token] <= 0:  # nothing of the draft is left: later children carry no information
            break
        if rng.random() * draft[token] < residual[token]:
            return token
        rest = np.maximum(residual - draft, 0)
        mass = rest.sum()
        if mass <= 0:  # draft and target agree to the last bit, so that a rejection is only rounding
            break
        residual = rest / mass
        draft[token] = 0
        left = draft.sum()
        if left <= 0:
            break
        draft /= left
    return _sample(residual, rng)


def _sample(probabilities: Probabilities, rng: np.random.Generator) -> int:
    cumulative = probabilities.cumsum()
    point = rng.random() * float(cumulative[-1])
    index = int(cumulative.searchsorted(point, side="right"))
    return min(index, len(probabilities) - 1)
