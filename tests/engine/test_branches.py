"""Branches: where they leave the text, and what of them is text."""

from __future__ import annotations

from engine.branches import BranchReader
from engine.request import Branch
from engine.speculation.verifier import Alternative

SPELLING = [b"", b"return", b" a", b" b", "\u00e9".encode()[:1], "\u00e9".encode()[1:], b"re", b"turn"]
END = 0


def reader(required: bytes = b"") -> BranchReader:
    return BranchReader(SPELLING.__getitem__, [END], required)


def test_a_branch_says_where_it_leaves_the_text() -> None:
    texts = reader()
    assert texts.read([1, 2], [(Alternative(1, 0, [3, 1]), -0.5)]) == (Branch(6, " breturn", -0.5),)
    assert texts.read([2], [(Alternative(0, 0, [3, 2]), -1.0)]) == (Branch(8, " b a", -1.0),)


def test_an_end_token_ends_a_branch_and_one_of_nothing_else_is_none() -> None:
    found = [(Alternative(0, 0, [3, END, 2]), -1.0), (Alternative(0, 0, [END, 2]), -2.0)]
    assert reader().read([1], found) == (Branch(0, " b", -1.0),)


def test_owed_bytes_are_no_text_and_must_be_paid() -> None:
    found = [
        (Alternative(0, 0, [1, 3]), -1.0),  # pays "re" and says "turn b"
        (Alternative(1, 0, [2, 3]), -1.0),  # behind "re"
        (Alternative(0, 0, [2, 3]), -1.0),  # spells something else
        (Alternative(0, 0, [6, END]), -1.0),  # pays, and says nothing
    ]
    assert reader(b"re").read([6, 7], found) == (Branch(0, "turn b", -1.0), Branch(0, " a b", -1.0))


def test_no_branch_begins_within_a_character() -> None:
    found = [(Alternative(0, 0, [4, 5]), -1.0), (Alternative(1, 0, [2, 3]), -1.0), (Alternative(0, 0, [2, 4]), -1.0)]
    assert reader().read([4, 5], found) == (Branch(0, "\u00e9", -1.0), Branch(0, " a", -1.0))
