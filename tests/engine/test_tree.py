from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.speculation.tree import TokenTree


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 24, vocab_size: int = 4) -> TokenTree:
    """Any tree: a few tokens, so that duplicates merge, and scores that tie and that exceed their parents'."""
    tree = TokenTree(draw(st.integers(0, vocab_size - 1)))
    for _ in range(draw(st.integers(0, max_nodes - 1))):
        parent = draw(st.integers(0, len(tree) - 1))
        step = draw(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5]))
        tree.add(parent, draw(st.integers(0, vocab_size - 1)), tree.scores[parent] + step)
    return tree


def paths(tree: TokenTree) -> list[tuple[int, ...]]:
    return [tuple(tree.tokens[index] for index in tree.path(node)) for node in range(len(tree))]


@given(trees())
def test_parents_come_first_outrank_their_children_and_siblings_differ(tree: TokenTree) -> None:
    assert (tree.parents[0], tree.depths[0], tree.scores[0]) == (-1, 0, 0.0)
    for node in range(1, len(tree)):
        parent = tree.parents[node]
        assert 0 <= parent < node
        assert tree.depths[node] == tree.depths[parent] + 1
        assert tree.scores[node] <= tree.scores[parent]
        assert tree.children(parent)[tree.tokens[node]] == node
    assert len(set(paths(tree))) == len(tree)


@given(trees())
def test_path_runs_from_the_root_to_the_node(tree: TokenTree) -> None:
    for node in range(len(tree)):
        path = tree.path(node)
        assert (path[0], path[-1], len(path)) == (0, node, tree.depths[node] + 1)
        assert all(tree.parents[child] == parent for parent, child in pairwise(path))


@given(trees(), st.integers(0, 30))
def test_prune_keeps_the_best_nodes(tree: TokenTree, budget: int) -> None:
    # Oracle: take the best node whose parent was taken, again and again.
    kept = [0]
    while len(kept) < min(budget + 1, len(tree)):
        reachable = [node for node in range(1, len(tree)) if node not in kept and tree.parents[node] in kept]
        kept.append(min(reachable, key=lambda node: (-tree.scores[node], node)))
    kept.sort()
    pruned = tree.prune(budget)
    assert pruned.scores == [tree.scores[node] for node in kept]
    assert paths(pruned) == [paths(tree)[node] for node in kept]
    assert all(pruned.children(node).values() for node in set(pruned.parents[1:]))


@given(trees(), st.data())
def test_subtree_is_what_continues_a_node(tree: TokenTree, data: st.DataObject) -> None:
    top = data.draw(st.integers(0, len(tree) - 1))
    below = [node for node in range(len(tree)) if top in tree.path(node)]
    subtree = tree.subtree(top)
    assert paths(subtree) == [paths(tree)[node][tree.depths[top] :] for node in below]
    assert subtree.depths == [tree.depths[node] - tree.depths[top] for node in below]
    assert np.allclose(subtree.scores, [tree.scores[node] - tree.scores[top] for node in below])


def test_merging_keeps_the_higher_score_and_the_first_place() -> None:
    tree = TokenTree(7)
    first, second = tree.add(0, 1, math.log(0.3)), tree.add(0, 2, math.log(0.4))
    assert tree.add(0, 1, math.log(0.6)) == first
    assert tree.add(0, 2, math.log(0.1)) == second
    assert np.allclose(np.exp(tree.scores), [1, 0.6, 0.4])
    assert dict(tree.children(0)) == {1: first, 2: second}
    assert tree.prune(1).tokens == [7, 1]


def test_ties_go_to_the_node_that_came_first() -> None:
    tree = TokenTree(0)
    for token in (3, 1, 2):
        tree.add(0, token, -1.0)
    assert tree.prune(2).tokens == [0, 3, 1]
