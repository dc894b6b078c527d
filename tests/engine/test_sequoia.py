from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from engine.speculation import sequoia
from engine.speculation.sequoia import draw_children, sequoia_verify
from engine.speculation.tree import TokenTree

VOCAB = 5
TRIALS = 20_000
Widths = Callable[[Sequence[int]], int]

# Shapes: children of a node, given the tokens on the path to it.
SHAPES: dict[str, Widths] = {
    "one child": lambda path: [1, 0][len(path)],
    "three children": lambda path: [3, 0][len(path)],
    "whole vocabulary": lambda path: [5, 0][len(path)],
    "chain of two": lambda path: [1, 1, 0][len(path)],
    "two levels": lambda path: [3, 2, 0][len(path)],
    "uneven": lambda path: [2, 3 if path and path[0] % 2 else 0, 1, 0][len(path)],
}


class Toy:
    """Distributions of a target and of a drafter after every path, far from each other but not everywhere."""

    def __init__(self, seed: int, sparse: bool = False) -> None:
        self.seed, self.sparse = seed, sparse
        self.cache: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __call__(self, path: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The target's probabilities, the draft's, and the logarithms of the draft's."""
        key = tuple(path)
        if key not in self.cache:
            rng = np.random.default_rng([self.seed, *key])
            target, draft = rng.dirichlet(np.ones(VOCAB)), rng.dirichlet(np.ones(VOCAB))
            if self.sparse:  # each has tokens that are impossible, and not the same
                target[rng.integers(VOCAB)] = 0
                draft[rng.permutation(VOCAB)[:2]] = 0
            draft /= draft.sum()
            with np.errstate(divide="ignore"):
                self.cache[key] = target / target.sum(), draft, np.log(draft)
        return self.cache[key]


def emitted_pair(toy: Toy, widths: Widths, rng: np.random.Generator) -> tuple[int, int]:
    """The first two tokens of a decoding: one verified step, then plain sampling."""
    tree = TokenTree(0)
    paths: list[list[int]] = [[]]
    for node in itertools.count():
        if node == len(tree):
            break
        if width := widths(paths[node]):
            for token in draw_children(toy(paths[node])[2], width, rng):
                tree.add(node, token, 0.0)
                paths.append([*paths[node], token])
    verdict = sequoia_verify(tree, lambda node: toy(paths[node])[1], lambda _node, path: toy(path)[0], rng)
    assert [tree.tokens[node] for node in verdict.nodes] == verdict.tokens[:-1]
    assert tree.path(verdict.nodes[-1] if verdict.nodes else 0) == [0, *verdict.nodes]
    first, *rest = verdict.tokens
    return first, rest[0] if rest else int(rng.choice(VOCAB, p=toy([first])[0]))


def p_values(toy: Toy, widths: Widths, seed: int) -> tuple[float, float]:
    """Chi-square tests of the first token and of the first two against the target's own distribution."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((VOCAB, VOCAB))
    for _ in range(TRIALS):
        counts[emitted_pair(toy, widths, rng)] += 1
    firsts = toy([])[0]
    pairs = np.array([firsts[token] * toy([token])[0] for token in range(VOCAB)])
    return fit(counts.sum(1), firsts), fit(counts.ravel(), pairs.ravel())


def fit(counts: np.ndarray, probs: np.ndarray) -> float:
    assert counts[probs == 0].sum() == 0
    expected = probs * counts.sum()
    counts, expected = counts[expected >= 5], expected[expected >= 5]
    return float(stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize(
    ("shape", "sparse"), [*((shape, False) for shape in SHAPES), ("whole vocabulary", True), ("two levels", True)]
)
def test_tokens_follow_the_target(shape: str, sparse: bool) -> None:
    first, pair = p_values(Toy(7, sparse), SHAPES[shape], seed=1)
    assert first > 1e-3
    assert pair > 1e-3


def keep_rejected(drawn: Sequence[int], draft: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> int:
    """A wrong rule: a rejected token stays in the draft's distribution."""
    residual = target
    for token in drawn:
        if rng.random() * draft[token] < residual[token]:
            return token
        residual = np.maximum(residual - draft, 0)
        residual = residual / residual.sum()
    return int(rng.choice(VOCAB, p=residual))


def keep_target(drawn: Sequence[int], draft: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> int:
    """A wrong rule: a rejection leaves the target's distribution as it was."""
    draft = draft.copy()
    for token in drawn:
        if rng.random() * draft[token] < target[token]:
            return token
        draft[token] = 0
        draft /= draft.sum()
    return int(rng.choice(VOCAB, p=target))


@pytest.mark.parametrize("rule", [keep_rejected, keep_target])
def test_the_same_check_finds_a_wrong_rule(rule: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequoia, "_accept", rule)
    first, pair = p_values(Toy(7), SHAPES["three children"], seed=1)
    assert first < 1e-6
    assert pair < 1e-6


def test_a_perfect_draft_is_always_accepted() -> None:
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(VOCAB))
    for _ in range(2000):
        tree = TokenTree(0)
        tree.add(0, draw_children(np.log(probs), 1, rng)[0], 0.0)
        verdict = sequoia_verify(tree, lambda _: probs, lambda _node, _path: probs, rng)
        assert verdict.nodes == [1]


def test_children_that_the_draft_cannot_draw_change_nothing() -> None:
    """A draft that is exhausted (here after one child) leaves a sample of what the target has left."""
    draft, target = np.array([1.0, 0, 0, 0]), np.array([0.25, 0.25, 0.5, 0])
    rng = np.random.default_rng(4)
    counts = np.zeros(4)
    for _ in range(TRIALS):
        tree = TokenTree(0)
        for token in (0, 3, 1):
            tree.add(0, token, 0.0)
        counts[sequoia_verify(tree, lambda _: draft, lambda _node, _path: target, rng).tokens[0]] += 1
    assert fit(counts, target) > 1e-3


def test_draws_are_without_replacement_and_in_draw_order() -> None:
    rng = np.random.default_rng(5)
    probs = np.array([0.5, 0.3, 0.15, 0.05, 0.0])
    with np.errstate(divide="ignore"):
        logprobs = np.log(probs)
    counts = np.zeros((5, 5))
    for _ in range(TRIALS):
        first, second = draw_children(logprobs, 2, rng)
        counts[first, second] += 1
    expected = np.array([[p * q / (1 - p) if i != j else 0 for j, q in enumerate(probs)] for i, p in enumerate(probs)])
    assert fit(counts.ravel(), expected.ravel()) > 1e-3
    assert sorted(draw_children(logprobs, 9, rng)) == [0, 1, 2, 3]
    assert draw_children(logprobs, 0, rng) == []
