"""What of a completion is shown, and where it ends: against a definition on the whole text."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.request import StopRules
from engine.sequence import TAB, Sequence, columns

END = 10_000


def by_definition(text: str, stop: StopRules) -> str:
    """What is shown of a text that ends here, character by character and line by line."""
    for end in range(len(text) + 1):
        ending = [string for string in stop.strings if string and text[:end].endswith(string)]
        if ending:
            text = text[: end - max(map(len, ending))]
            break
    if not stop.end_of_line and stop.min_indent is None:
        return text
    text = text.removesuffix("\r")  # half of a line break, or not: nobody knows
    parts = re.split(r"(\r?\n)", text)
    first, breaks, lines = parts[0], parts[1::2], parts[2::2]
    if stop.end_of_line:
        leading = text[: len(text) - len(text.lstrip(" \t\r\n"))]
        if leading == text or leading.count("\n") > 1:
            return ""
        keep = leading.count("\n")
        breaks, lines = breaks[:keep], lines[:keep]
    shown, pending = first, ""
    for line_break, line in zip(breaks, lines, strict=True):
        pending += line_break + line
        if line.strip(" \t"):
            indentation = line[: len(line) - len(line.lstrip(" \t"))]
            closing = line.lstrip(" \t")[0] in ")]}"
            if len(indentation.expandtabs(8)) + closing < (stop.min_indent or 0):
                return "" if stop.end_of_line else shown
            shown, pending = shown + pending, ""
    return shown


def show(tokens: list[bytes], stop: StopRules, required: bytes = b"") -> tuple[str, Sequence]:
    """Push the tokens, numbered in order, and then the end token; return the text."""
    sequence = Sequence(
        [1, 2], lambda i: tokens[i], stop=stop, stop_ids=[END], max_tokens=len(tokens) + 1, required=required
    )
    text = ""
    for token in [*range(len(tokens)), END]:
        text += sequence.push(token)
        if sequence.finish_reason:
            break
    return text, sequence


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


texts = st.lists(
    st.one_of(
        st.sampled_from(
            ["\n", "\r\n", "\r", "    ", " ", "\t", "\n\n", "\n    ", "\n\t", "a", "b", "ab", "é", "🌲", "def"]
        ),
        st.text(max_size=3),
    ),
    max_size=14,
).map("".join)
rules = st.builds(
    StopRules,
    strings=st.lists(st.sampled_from(["ab", "b", "abab", "aab", "\n\n", "é", "\n", "🌲a", "", "def"]), max_size=3).map(
        tuple
    ),
    end_of_line=st.booleans(),
    min_indent=st.one_of(st.none(), st.integers(0, 9)),
)


@settings(max_examples=600, deadline=None)
@given(text=texts, stop=rules, cuts=st.lists(st.integers(0, 200), max_size=20))
@example(text="aabab", stop=StopRules(strings=("abab", "b")), cuts=[1, 2, 3, 4])
@example(text="a\n\n  b\n c", stop=StopRules(min_indent=2), cuts=[1, 2, 3, 4, 5, 6, 7, 8])
@example(text="\r\n    x\r\n", stop=StopRules(end_of_line=True), cuts=list(range(12)))
def test_any_grouping_shows_the_same(text: str, stop: StopRules, cuts: list[int]) -> None:
    text = text.encode("utf-8", "replace").decode()
    shown, sequence = show(cut(text.encode(), cuts), stop)
    assert shown == by_definition(text, stop)
    assert sequence.finish_reason == "stop"


@settings(max_examples=300, deadline=None)
@given(
    text=texts,
    stop=rules,
    cuts=st.lists(st.integers(0, 200), max_size=20),
    reason=st.sampled_from(["deadline", "length"]),
)
def test_an_end_from_outside(text: str, stop: StopRules, cuts: list[int], reason: str) -> None:
    tokens = cut(text.encode("utf-8", "replace"), cuts)
    limit = len(tokens) if reason == "length" else len(tokens) + 1
    sequence = Sequence([], lambda i: tokens[i], stop=stop, stop_ids=[], max_tokens=max(limit, 1))
    shown, pushed = "", 0
    while pushed < len(tokens) and sequence.finish_reason is None:
        shown += sequence.push(pushed)
        pushed += 1
    if sequence.finish_reason is None:
        shown += sequence.finish("deadline")
        assert sequence.finish_reason == "deadline"
    assert sequence.generated == list(range(pushed))
    assert shown == by_definition(b"".join(tokens[:pushed]).decode("utf-8", "ignore"), stop)


@settings(max_examples=200, deadline=None)
@given(owed=st.binary(max_size=8), text=texts, stop=rules, cuts=st.lists(st.integers(0, 200), max_size=20))
def test_owed_bytes_are_not_shown(owed: bytes, text: str, stop: StopRules, cuts: list[int]) -> None:
    data = text.encode("utf-8", "replace")
    shown, sequence = show(cut(owed + data, cuts), stop, owed)
    assert shown == by_definition(data.decode(), stop)
    assert sequence.required == b""


def test_a_token_that_contradicts_the_owed_bytes() -> None:
    sequence = Sequence(
        [], {0: b"pr", 1: b"o"}.__getitem__, stop=StopRules(), stop_ids=[], max_tokens=9, required=b"pri"
    )
    assert sequence.push(0) == ""
    assert sequence.required == b"i"
    with pytest.raises(ValueError, match="owed"):
        sequence.push(1)


def test_without_rules_everything_is_shown_at_once() -> None:
    text = "é = [1]\n\n\n  🌲 "
    sequence = Sequence([], lambda i: text.encode()[i : i + 1], stop=StopRules(), stop_ids=[], max_tokens=99)
    shown = ""
    for i in range(len(text.encode())):
        shown += sequence.push(i)
        assert shown == text.encode()[: i + 1].decode("utf-8", "ignore")


def test_the_end_of_a_line_is_seen_at_its_line_break() -> None:
    tokens = [b"return", b" x", b"\n", b"    y"]
    sequence = Sequence([], tokens.__getitem__, stop=StopRules(end_of_line=True), stop_ids=[], max_tokens=9)
    assert [sequence.push(0), sequence.push(1), sequence.finish_reason] == ["return", " x", None]
    assert [sequence.push(2), sequence.finish_reason] == ["", "stop"]
    with pytest.raises(ValueError, match="has ended"):
        sequence.push(3)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\n    return x\n", "\n    return x"),  # at the end of a complete line, the next line
        ("\n\n    return x\n", ""),
        ("   \n", ""),
        ("x\r\ny", "x"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    assert show([text.encode()], StopRules(end_of_line=True))[0] == shown


def test_a_block() -> None:
    text = "x:\n        y\n\n        # z\n\n\n    def w"
    assert show([text.encode()], StopRules(min_indent=8))[0] == "x:\n        y\n\n        # z"
    assert show([b"a\n\tb\n    c"], StopRules(min_indent=8))[0] == "a\n\tb"


def test_the_bracket_that_closes_a_block_belongs_to_it() -> None:
    rules = StopRules(min_indent=5)  # what a line at column 4 may open
    assert show([b"f(\n        a,\n    )\n    b"], rules)[0] == "f(\n        a,\n    )"
    assert show([b"f(\n        a\n)"], rules)[0] == "f(\n        a"
    assert columns("  \t ") == TAB + 1


def test_a_cut_character_is_not_shown() -> None:
    sequence = Sequence([], [b"a\xc3", b"\xa9b"].__getitem__, stop=StopRules(), stop_ids=[], max_tokens=1)
    assert sequence.push(0) == "a"
    assert sequence.finish_reason == "length"


def test_the_end_token_is_no_part_of_the_completion() -> None:
    text, sequence = show([b"a", b"b"], StopRules())
    assert text == "ab"
    assert sequence.generated == [0, 1]
    assert sequence.ids == (1, 2, 0, 1)
