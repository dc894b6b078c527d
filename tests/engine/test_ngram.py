from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.speculation.ngram import NgramDrafter
from engine.speculation.tree import TokenTree

texts = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def drafter_of(tokens: list[int], **options: int) -> NgramDrafter:
    drafter = NgramDrafter(**options)
    drafter.reset(tokens)
    return drafter


def chains(tree: TokenTree) -> list[list[int]]:
    """Tokens below the root on the way to each leaf, in order of insertion."""
    leaves = [node for node in range(len(tree)) if not tree.children(node)]
    return [[tree.tokens[index] for index in tree.path(leaf)[1:]] for leaf in leaves]


def propose(drafter: NgramDrafter, root: int, **options: float) -> list[list[int]]:
    tree = TokenTree(root)
    drafter.propose(tree, **options)  # pyright: ignore[reportArgumentType]
    return chains(tree)


def longest_matches(text: list[int], longest: int = 16) -> list[tuple[int, int]]:
    """Oracle: (match length, index after the match) of every earlier place that agrees with the end, best first."""
    found = []
    for end in range(1, len(text)):
        length = 0
        while length < min(end, longest) and text[end - 1 - length] == text[-1 - length]:
            length += 1
        if length >= 2:
            found.append((length, end))
    return sorted(found, reverse=True)


@given(texts, st.integers(1, 6))
def test_the_first_chain_follows_the_latest_of_the_longest_matches(text: list[int], length: int) -> None:
    tree = TokenTree(text[-1])
    drafter_of(text).propose(tree, length=length, min_probability=1e-9)
    matches = longest_matches(text)
    if not matches:
        assert len(tree) == 1
        return
    copy = list(text)
    for offset in range(length):  # one by one, so that a copy may run into itself
        copy.append(copy[matches[0][1] + offset])
    assert chains(tree)[0][:length] == copy[len(text) :]
    assert max(tree.depths) == length


@given(texts)
def test_the_second_chain_follows_another_token(text: list[int]) -> None:
    tree = TokenTree(text[-1])
    drafter_of(text).propose(tree, min_probability=1e-9)
    assert len(tree.children(0)) <= 2
    followed = {text[end] for _, end in longest_matches(text)}
    assert set(tree.children(0)) <= followed
    latest_per_length = {}
    for match in range(2, 17):  # the latest match of each length, as short matches hide in longer ones
        ends = [end for length, end in longest_matches(text) if length >= match]
        if ends:
            latest_per_length[match] = text[max(ends)]
    assert set(tree.children(0)) == set(list(dict.fromkeys(reversed(latest_per_length.values())))[:2])


def test_two_continuations_with_the_longer_match_first() -> None:
    text = [1, 2, 3, 4, 50, 51, 9, 3, 4, 60, 61, 1, 2, 3, 4]
    tree = TokenTree(4)
    assert drafter_of(text).propose(tree, length=2) == 4
    assert chains(tree) == [[50, 51], [60, 61]]
    first, second = (tree.scores[node] for node in tree.children(0).values())
    assert first > second


def test_a_chain_ends_where_it_becomes_improbable() -> None:
    text = [*range(100, 130), 7, 8, *range(100, 104)]
    [chain] = propose(drafter_of(text), 103, length=30, min_probability=0.1)
    [longer] = propose(drafter_of(text), 103, length=30, min_probability=0.02)
    assert chain == longer[: len(chain)] == list(range(104, 104 + len(chain)))
    assert 2 <= len(chain) < len(longer) < 30
    tree = TokenTree(103)
    drafter_of(text).propose(tree, length=30, min_probability=0.1)
    assert math.exp(min(tree.scores)) >= 0.1


def test_nothing_to_copy() -> None:
    for text in ([], [5], [5, 5], [1, 2, 3, 4, 5], [1, 2, 3, 9, 3]):
        assert propose(drafter_of(text), 0) == [[]]


def test_large_token_ids() -> None:
    text = [55295, 55296, 57343, 65536, 128_255, 256_000, 7, 55295, 55296, 57343]
    assert propose(drafter_of(text), 57343, length=3) == [[65536, 128_255, 256_000]]


def test_remembered_text_is_copied_but_never_across_its_ends() -> None:
    drafter = NgramDrafter()
    drafter.remember([1, 2, 3])
    drafter.remember([4, 5, 6, 7])
    drafter.reset([9, 5, 6])
    assert propose(drafter, 6) == [[7]]
    drafter.reset([9, 2, 3])
    assert propose(drafter, 3) == [[]]
    drafter.reset([3])
    assert propose(drafter, 3) == [[]]
    drafter.reset([5, 6, 8, 5, 6])  # at equal length the context comes before the memory
    assert propose(drafter, 6, length=1)[0] == [8]
    drafter.reset([4, 5, 6, 8, 0, 4, 5, 6])
    assert propose(drafter, 6, length=1) == [[8]]
    drafter.forget()
    drafter.reset([9, 5, 6])
    assert propose(drafter, 6) == [[]]


def test_memory_keeps_the_latest_tokens() -> None:
    drafter = NgramDrafter(memory_limit=10)
    for start in (100, 200, 300):
        drafter.remember([start, start + 1, start + 2, start + 3])
    for start, expected in ((100, [[]]), (200, [[202, 203]]), (300, [[302, 303]])):
        drafter.reset([start, start + 1])
        assert propose(drafter, start + 1) == expected


def test_acceptance_is_learned_per_match_length() -> None:
    drafter = NgramDrafter()
    before = [drafter.acceptance(match) for match in range(20)]
    assert before == sorted(before)
    for _ in range(30):  # after matches of 2 tokens the copy is wrong each time
        drafter.reset([1, 2, 3, 9, 1, 2])
        assert drafter.propose(TokenTree(2), length=1) <= 1
        drafter.extend([4])
    assert drafter.acceptance(2) < before[2] / 2
    assert [drafter.acceptance(match) for match in range(3, 20)] == before[3:]
    for _ in range(300):
        drafter.reset([1, 2, 3, 9, 1, 2])
        drafter.propose(TokenTree(2), length=1)
        drafter.extend([3])
    assert 0.9 < drafter.acceptance(2) < 1
    drafter.forget()
    assert [drafter.acceptance(match) for match in range(20)] == before


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
def test_proposals_follow_from_the_calls_alone(rounds: list[tuple[list[int], list[int]]]) -> None:
    def play() -> list[tuple[list[int], list[float]]]:
        drafter, seen = NgramDrafter(), []
        for context, emitted in rounds:
            drafter.reset(context)
            tree = TokenTree(context[-1])
            drafter.propose(tree)
            seen.append((tree.tokens, tree.scores))
            drafter.extend(emitted)
            drafter.remember(emitted)
        return seen

    assert play() == play()


@pytest.mark.parametrize("split", [1, 3, 10])
def test_extending_is_the_same_as_resetting(split: int) -> None:
    text = [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]
    drafter = drafter_of(text[:split])
    drafter.extend(text[split:])
    assert propose(drafter, 3) == propose(drafter_of(text), 3)
