"""Lossless verification: how far the target's own choices run inside a draft tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.speculation.tree import TokenTree


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one target pass decided.

    `nodes`: accepted tree nodes from the root (excluded) downwards. `tokens`: their tokens and then one bonus token,
    the target's choice at the last of them, so `len(tokens) == len(nodes) + 1`.
    """

    nodes: list[int]
    tokens: list[int]


def verify(tree: TokenTree, choose: Callable[[int, Sequence[int]], int]) -> Verdict:
    """Follow the target's choices down from the root for as long as they are in the tree.

    `choose(node, path)` is the token that the target puts after `node`; `path` holds the tokens below the root up to
    and including `node`. It is called once per accepted node and once for the root, in that order, and nowhere else.

    Exact for any tree whatsoever: the tokens are those of decoding one by one with the same `choose`.
    """
    node = 0
    nodes: list[int] = []
    tokens: list[int] = []
    while True:
        token = choose(node, tokens)
        child = tree.children(node).get(token)
        tokens.append(token)
        if child is None:
            return Verdict(nodes, tokens)
        nodes.append(child)
        node = child


@dataclass(frozen=True, slots=True)
class Alternative:
    """What the target says after a draft token that it did not choose.

    `depth`: how many of the verdict's tokens come before it; `parent`: the node that it hangs from. `tokens`: the draft
    token, then the target's own choices for as long as the tree goes with them, and one more.
    """

    depth: int
    parent: int
    tokens: list[int]


def alternatives(tree: TokenTree, verdict: Verdict, choose: Callable[[int, Sequence[int]], int]) -> list[Alternative]:
    """Read off the same pass what would have followed the draft tokens right beside the accepted path.

    `choose`: as for `verify`.
    """
    found: list[Alternative] = []
    accepted = set(verdict.nodes)
    for depth, parent in enumerate((0, *verdict.nodes)):
        for first, child in tree.children(parent).items():
            if child in accepted:
                continue
            node: int | None = child
            path = [*verdict.tokens[:depth], first]
            while node is not None:
                path.append(choose(node, path))
                node = tree.children(node).get(path[-1])
            found.append(Alternative(depth, parent, path[depth:]))
    return found
