"""Text as the client has it: lines, positions in three encodings, edits of any kind."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lsprotocol import types

from lsp_server.documents import Document, Edit, Encoding, content, split_lines, to_column, to_units

CODECS: dict[Encoding, tuple[str, int]] = {
    "utf-8": ("utf-8", 1),
    "utf-16": ("utf-16-le", 2),
    "utf-32": ("utf-32-le", 4),
}
ENCODINGS = tuple(CODECS)
PIECES = ["a", "b", " ", "\n", "\r", "\r\n", "\f", "\v", "\u2028", "\u0085", "é", "中", "😀", "\u0301", "\x1c", "\0"]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
encodings = st.sampled_from(ENCODINGS)


def opened(text: str, encoding: Encoding = "utf-16") -> Document:
    return Document("file:///a.py", text, 1, "python", encoding)


def width(text: str, encoding: Encoding) -> int:
    """How many units a text has, by the codecs of Python."""
    codec, size = CODECS[encoding]
    return len(text.encode(codec)) // size


def offset(text: str, line: int, units: int, encoding: Encoding) -> int:
    """Where a position is in `text`, found the slow way."""
    starts = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]
    if line >= len(starts):
        return len(text)
    at = starts[line]
    while at < len(text) and text[at] not in "\r\n" and width(text[starts[line] : at + 1], encoding) <= units:
        at += 1
    return at


def place(text: str, at: int, encoding: Encoding) -> types.Position:
    """The position of an index in `text`."""
    breaks = [match.end() for match in re.finditer(r"\r\n|\r|\n", text) if match.end() <= at]
    start = breaks[-1] if breaks else 0
    return types.Position(len(breaks), width(text[start:at], encoding))


@given(texts)
@example("")
@example("\r\n\r")
def test_lines_are_those_of_the_protocol(text: str) -> None:
    lines = split_lines(text)
    assert "".join(lines) == text
    assert [content(line) for line in lines] == re.split(r"\r\n|\r|\n", text)


@given(texts, encodings, st.integers(0, 40))
def test_columns_in_every_encoding(text: str, encoding: Encoding, units: int) -> None:
    line = split_lines(text)[0]
    column = to_column(line, units, encoding)
    assert column == offset(text, 0, units, encoding)
    assert to_units(line, column, encoding) == width(line[:column], encoding)
    assert to_column(line, to_units(line, column, encoding), encoding) == column


def test_a_column_within_a_character_is_its_beginning() -> None:
    assert to_column("a😀b", 2, "utf-16") == 1
    assert to_column("a😀b", 3, "utf-8") == 1
    assert to_column("aéb", 2, "utf-8") == 1
    assert [to_column("a😀b", units, "utf-32") for units in range(5)] == [0, 1, 2, 3, 3]


Change = tuple[int, int, int, int, str]
changes = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 9), st.integers(0, 8), st.integers(0, 9), texts), max_size=8
)


@given(texts, changes, encodings)
def test_edits_leave_what_the_client_has(text: str, edits: list[Change], encoding: Encoding) -> None:
    document = opened(text, encoding)
    for line, column, last, end, new in edits:
        start, stop = sorted([(line, column), (last, end)])
        first = offset(text, *start, encoding)
        past = max(first, offset(text, *stop, encoding))
        text = text[:first] + new + text[past:]
        document.apply_change(
            types.TextDocumentContentChangePartial(types.Range(types.Position(*start), types.Position(*stop)), text=new)
        )
        assert document.source == text
        assert document.lines == split_lines(text)


@given(texts, st.data(), encodings)
def test_an_edit_is_noted_where_it_ends(text: str, data: st.DataObject, encoding: Encoding) -> None:
    first = data.draw(st.integers(0, len(text)))
    past = data.draw(st.integers(first, len(text)))
    new = data.draw(texts)
    document = opened(text, encoding)
    span = types.Range(place(text, first, encoding), place(text, past, encoding))
    document.apply_change(types.TextDocumentContentChangePartial(span, text=new))
    edit = document.last_edit
    assert edit is not None
    assert edit.text == new
    if "\r" not in text + new:
        assert document.source == text[:first] + new + text[past:]
        assert edit.removed == past - first
        behind = split_lines(text[:first] + new)
        assert (edit.line, edit.column) == (len(behind) - 1, len(behind[-1]))


@given(texts, texts)
@example("aXa", "aXXa")
@example("aaa", "aa")
def test_a_whole_new_text_is_taken_and_its_edit_found(old: str, new: str) -> None:
    document = opened(old)
    document.apply_change(types.TextDocumentContentChangeWholeDocument(new))
    assert document.source == new
    assert document.lines == split_lines(new)
    edit = document.last_edit
    assert edit is not None
    assert len(old) - edit.removed + len(edit.text) == len(new)


def test_snapshots_are_not_changed_by_edits() -> None:
    document = opened("one\ntwo\n")
    snapshot = document.snapshot(types.Position(1, 3))
    span = types.Range(types.Position(1, 0), types.Position(1, 3))
    document.apply_change(types.TextDocumentContentChangePartial(span, text="three"))
    assert "".join(snapshot.lines) == "one\ntwo\n"
    assert (snapshot.line, snapshot.column) == (1, 3)
    assert document.source == "one\nthree\n"


def test_the_range_may_be_the_wrong_way_round() -> None:
    document = opened("abc")
    span = types.Range(types.Position(0, 3), types.Position(0, 1))
    document.apply_change(types.TextDocumentContentChangePartial(span, text="X"))
    assert document.source == "aX"
    assert document.last_edit == Edit(0, 2, "X", 2)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_break_that_becomes_part_of_another(encoding: Encoding) -> None:
    document = opened("a\rb", encoding)
    span = types.Range(types.Position(1, 0), types.Position(1, 0))
    document.apply_change(types.TextDocumentContentChangePartial(span, text="\n"))
    assert document.lines == ["a\r\n", "b"]
