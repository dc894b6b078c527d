from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from engine.speculation.tree import TokenTree
from engine.speculation.verifier import alternatives, verify


class ToyTarget:
    """A pseudo-random function of everything before a token, with few tokens so that drafts are often right."""

    def __init__(self, seed: int, vocab_size: int = 3) -> None:
        self.seed, self.vocab_size = seed, vocab_size

    def next(self, tokens: Sequence[int]) -> int:
        return random.Random(f"{self.seed} {list(tokens)}").randrange(self.vocab_size)

    def decode(self, prompt: Sequence[int], count: int) -> list[int]:
        """One token at a time."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(self.next(tokens))
        return tokens[len(prompt) :]


def random_tree(root: int, nodes: int, source: random.Random, vocab_size: int = 3) -> TokenTree:
    tree = TokenTree(root)
    for _ in range(nodes):
        parent = source.randrange(len(tree))
        tree.add(parent, source.randrange(vocab_size), tree.scores[parent] - source.random())
    return tree


@given(st.integers(0, 2**32), st.integers(0, 60), st.randoms(use_true_random=False))
def test_any_trees_give_the_text_of_decoding_one_by_one(seed: int, nodes: int, source: random.Random) -> None:
    target, prompt = ToyTarget(seed), [1, 2]
    tokens = list(prompt)
    for _ in range(6):
        tree = random_tree(tokens[-1], nodes, source)
        verdict = verify(tree, lambda _node, path, before=tuple(tokens): target.next([*before, *path]))
        assert len(verdict.tokens) == len(verdict.nodes) + 1
        tokens += verdict.tokens
    assert tokens[len(prompt) :] == target.decode(prompt, len(tokens) - len(prompt))


@given(st.integers(0, 2**32), st.integers(0, 60), st.randoms(use_true_random=False))
def test_accepted_nodes_are_the_longest_path_that_the_target_takes(
    seed: int, nodes: int, source: random.Random
) -> None:
    target = ToyTarget(seed)
    tree = random_tree(0, nodes, source)
    verdict = verify(tree, lambda _node, path: target.next([0, *path]))
    assert [0, *verdict.nodes] == tree.path(verdict.nodes[-1] if verdict.nodes else 0)
    truth = target.decode([0], 70)
    agreeing = [
        node
        for node in range(len(tree))
        if [tree.tokens[index] for index in tree.path(node)[1:]] == truth[: tree.depths[node]]
    ]
    assert len(verdict.nodes) == max(tree.depths[node] for node in agreeing)


def test_choose_is_asked_only_where_the_walk_passes() -> None:
    tree = TokenTree(9)
    left = tree.add(0, 1, -1.0)
    tree.add(left, 5, -2.0)
    right = tree.add(0, 2, -1.0)
    leaf = tree.add(right, 3, -2.0)
    asked: list[tuple[int, list[int]]] = []

    def choose(node: int, path: Sequence[int]) -> int:
        asked.append((node, list(path)))
        return [2, 3, 4][len(path)]

    verdict = verify(tree, choose)
    assert verdict.nodes == [right, leaf]
    assert verdict.tokens == [2, 3, 4]
    assert asked == [(0, []), (right, [2]), (leaf, [2, 3])]


@given(st.integers(0, 2**32), st.integers(0, 60), st.randoms(use_true_random=False))
def test_alternatives_are_what_the_target_would_have_said(seed: int, nodes: int, source: random.Random) -> None:
    target = ToyTarget(seed)
    tree = random_tree(0, nodes, source)
    verdict = verify(tree, lambda _node, path: target.next([0, *path]))
    found = alternatives(tree, verdict, lambda _node, path: target.next([0, *path]))
    for each in found:
        before = [0, *verdict.tokens[: each.depth], each.tokens[0]]
        assert each.tokens[0] != verdict.tokens[each.depth]
        assert each.tokens[1:] == target.decode(before, len(each.tokens) - 1)
    path = [0, *verdict.nodes]
    beside = [child for node in path for child in tree.children(node).values() if child not in path]
    assert len(found) == len(beside)
