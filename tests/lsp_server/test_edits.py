"""Where an edit ends is a place in the text that it has made, whatever it does to line breaks."""

from __future__ import annotations

import random

import pytest
from lsprotocol import types

from lsp_server.documents import Document, content, split_lines
from lsp_server.view import view_of


def change(first: tuple[int, int], last: tuple[int, int], text: str) -> types.TextDocumentContentChangePartial:
    return types.TextDocumentContentChangePartial(types.Range(types.Position(*first), types.Position(*last)), text)


@pytest.mark.parametrize(
    ("text", "edit", "after", "place"),
    [
        ("a\rb\n", change((1, 0), (1, 1), ""), "a\r\n", (0, 1)),  # what parted the two is gone: one break, one line
        ("a\rb", change((1, 0), (1, 0), "\n"), "a\r\nb", (1, 0)),
        ("a\nb", change((0, 1), (0, 1), "x\r"), "ax\r\nb", (0, 2)),
        ("a\nb", change((0, 1), (1, 0), "\r\n"), "a\r\nb", (1, 0)),
        ("a\nb\n", change((0, 0), (2, 0), ""), "", (0, 0)),
        ("ab", change((0, 1), (0, 1), "1\n2\n3"), "a1\n2\n3b", (2, 1)),
    ],
)
def test_the_end_of_an_edit(
    text: str, edit: types.TextDocumentContentChangePartial, after: str, place: tuple[int, int]
) -> None:
    document = Document("file:///a.py", text, 1, "python", "utf-16")
    document.apply_change(edit)
    assert document.source == after
    assert document.last_edit is not None
    assert (document.last_edit.line, document.last_edit.column) == place


@pytest.mark.parametrize("whole", [False, True])
def test_every_edit_ends_within_the_text(whole: bool) -> None:
    chance = random.Random(0)
    document = Document("file:///a.py", "", 1, "python", "utf-32")
    for _ in range(3000):
        text = "".join(chance.choices("ab\r\n", k=chance.choice((0, 1, 3))))
        places = sorted((chance.randrange(len(document.lines)), chance.randrange(4)) for _ in range(2))
        before = document.source
        if whole:
            document.apply_change(types.TextDocumentContentChangeWholeDocument(before[: chance.randrange(9)] + text))
        else:
            document.apply_change(change(places[0], places[1], text))
        edit = document.last_edit
        assert edit is not None
        assert document.lines == split_lines(document.source)
        assert edit.column <= len(content(document.lines[edit.line]))
        assert view_of(document.snapshot(types.Position(edit.line, edit.column))).before is not None
