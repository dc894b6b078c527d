"""Open documents as lines of characters, and the positions that clients name in them.

Lines end with line feeds, carriage returns and the two together, as the protocol says, and with nothing else:
`str.splitlines` also breaks at form feeds and U+2028, which would shift every position behind them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from lsprotocol import types
from pygls.workspace import TextDocument, Workspace

Encoding = Literal["utf-8", "utf-16", "utf-32"]
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")


def split_lines(text: str) -> list[str]:
    """Return the lines of `text`, each with its line break; the last has none, and is empty after a final break."""
    if "\r" not in text:
        parts = text.split("\n")
        return [*(part + "\n" for part in parts[:-1]), parts[-1]]
    lines = _LINE.findall(text)
    return [*lines, ""] if not lines or lines[-1][-1] in "\r\n" else lines


def content(line: str) -> str:
    """Return a line without its break."""
    return line.rstrip("\r\n")


def to_column(line: str, units: int, encoding: Encoding) -> int:
    """Return the character index of a client's column in `line`.

    A column beyond the line is its end, one within a character the character's beginning.
    """
    text = content(line)
    if encoding == "utf-32" or text.isascii():
        return max(0, min(units, len(text)))
    for index, char in enumerate(text):
        units -= _width(char, encoding)
        if units < 0:
            return index
    return len(text)


def to_units(line: str, column: int, encoding: Encoding) -> int:
    """Return the client's column of the character index `column`."""
    text = line[:column]
    if encoding == "utf-32" or text.isascii():
        return len(text)
    return sum(_width(char, encoding) for char in text)


def _width(char: str, encoding: Encoding) -> int:
    code = ord(char)
    if encoding == "utf-16":
        return 2 if code > 0xFFFF else 1
    return 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4


@dataclass(frozen=True, slots=True)
class Edit:
    """A change: `text` took the place of `removed` characters; it ends at (line, column), in characters."""

    line: int
    column: int
    text: str
    removed: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A document at one moment, and a place in it. `lines` are never changed; `column` counts characters.

    `earlier`: the text of a notebook's cells before this one.
    """

    uri: str
    version: int | None
    language: str
    lines: Sequence[str]
    line: int
    column: int
    encoding: Encoding = "utf-16"
    earlier: str = ""


class Document(TextDocument):
    """An open document. Every change makes a new list of lines, so that snapshots cost nothing."""

    def __init__(self, uri: str, source: str, version: int | None, language_id: str | None, encoding: Encoding) -> None:
        super().__init__(uri, source=None, version=version, language_id=language_id)
        self.encoding: Encoding = encoding
        self.last_edit: Edit | None = None
        self._all_lines = split_lines(source)

    @property
    def lines(self) -> list[str]:
        """The lines, each with its break."""
        return self._all_lines

    @property
    def source(self) -> str:
        """The whole text."""
        return "".join(self._all_lines)

    def apply_change(self, change: types.TextDocumentContentChangeEvent) -> None:
        """Apply a change of a part or of the whole. Places beyond the text are its end."""
        if isinstance(change, types.TextDocumentContentChangeWholeDocument):
            self._replace_all(change.text)
        else:
            self._replace(self._place(change.range.start), self._place(change.range.end), change.text)

    def snapshot(self, position: types.Position, earlier: str = "") -> Snapshot:
        """Return the document as it is now, and the place that `position` names."""
        line, column = self._place(position)
        language = self.language_id or ""
        return Snapshot(self.uri, self.version, language, self._all_lines, line, column, self.encoding, earlier)

    def _place(self, position: types.Position) -> tuple[int, int]:
        if position.line >= len(self._all_lines):
            return len(self._all_lines) - 1, len(self._all_lines[-1])
        line = max(position.line, 0)
        return line, to_column(self._all_lines[line], position.character, self.encoding)

    def _replace(self, start: tuple[int, int], end: tuple[int, int], text: str) -> None:
        if end < start:
            start, end = end, start
        lines = self._all_lines
        first, last = start[0], end[0]
        removed = sum(map(len, lines[first:last])) + end[1] - start[1]
        head, tail = lines[first][: start[1]] + text, lines[last][end[1] :]
        if first > 0 and lines[first - 1].endswith("\r") and (head + tail).startswith("\n"):
            first -= 1  # the two become one line break
            head = lines[first] + head
        fresh = split_lines(head + tail)
        if last + 1 < len(lines):
            fresh.pop()  # the empty line after the region's own final break: the next line takes its place
        self._all_lines = [*lines[:first], *fresh, *lines[last + 1 :]]
        row, column = _end(head, tail)
        self.last_edit = Edit(first + row, column, text, removed)

    def _replace_all(self, text: str) -> None:
        """Take a whole new text, and find out what has changed: clients without incremental sync send it so."""
        old, new = self.source, text
        limit = min(len(old), len(new))
        start = _agreeing(limit, lambda low, high: old[low:high] == new[low:high])
        limit -= start
        end, new_end = len(old), len(new)
        tail = _agreeing(limit, lambda low, high: old[end - high : end - low] == new[new_end - high : new_end - low])
        self._all_lines = split_lines(new)
        end = len(new) - tail
        self.last_edit = Edit(*_end(new[:end], new[end:]), new[start:end], len(old) - tail - start)


def _agreeing(limit: int, agree: Callable[[int, int], bool]) -> int:
    """Return the largest size up to `limit` so that `agree` holds from 0 to it; it is asked for parts only."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if agree(low, middle) else (low, middle - 1)
    return low


def _end(head: str, tail: str) -> tuple[int, int]:
    """Return the row and column where `head` ends and `tail` begins: within a line break, the end of its line."""
    if head.endswith("\r") and tail.startswith("\n"):
        head = head[:-1]
    lines = split_lines(head)
    return len(lines) - 1, len(lines[-1])


class Documents(Workspace):
    """The client's folders and open documents."""

    @classmethod
    def like(cls, workspace: Workspace, folders: Sequence[types.WorkspaceFolder]) -> Documents:
        """Return what takes the place of the workspace that pygls has made."""
        kind = types.TextDocumentSyncKind.Incremental
        return cls(workspace.root_uri, kind, folders, workspace.position_encoding)

    def open_document(self, uri: str) -> Document | None:
        """Return a document that is open, by the client's name for it."""
        document = self.text_documents.get(unquote(uri))
        return document if isinstance(document, Document) else None

    def all_open(self) -> list[Document]:
        """Return every open document."""
        return [each for each in self.text_documents.values() if isinstance(each, Document)]

    def snapshot(self, uri: str, position: types.Position) -> Snapshot | None:
        """Return an open document as it is now, and a place in it; a notebook's cell knows those before it."""
        document = self.open_document(uri)
        return document.snapshot(position, self._earlier_cells(uri)) if document else None

    def _create_text_document(
        self, doc_uri: str, source: str | None = None, version: int | None = None, language_id: str | None = None
    ) -> TextDocument:
        encoding = str(getattr(self.position_encoding, "value", self.position_encoding) or "utf-16")
        known: Encoding = "utf-8" if encoding == "utf-8" else "utf-32" if encoding == "utf-32" else "utf-16"
        return Document(doc_uri, source or "", version, language_id, known)

    def _earlier_cells(self, uri: str) -> str:
        notebook = self.get_notebook_document(cell_uri=uri)
        if notebook is None:
            return ""
        texts: list[str] = []
        for cell in notebook.cells:
            if unquote(cell.document) == unquote(uri):
                break
            document = self.open_document(cell.document)
            if document and cell.kind == types.NotebookCellKind.Code and document.source.strip():
                texts.append(document.source.rstrip() + "\n\n")
        return "".join(texts)
