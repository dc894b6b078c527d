"""The place that a suggestion is for: what stands around the cursor, as far as it matters."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lsp_server.documents import Snapshot, split_lines

LINES_BEFORE = 2048  # at least so many go into a request, where there are as many
LINES_AFTER = 512
STEP = 1024  # lines; the engine cuts prefixes at lines divisible by 32, which such steps leave as they are
WINDOW_BEFORE = 4000  # characters that must agree for a suggestion to be one for this place
WINDOW_AFTER = 1000


@dataclass(frozen=True, slots=True)
class View:
    """A place in a document, as if what the editor's own menu has selected had been typed already.

    `before`, `after`: all that a request holds of the text, with line feeds, as models write them, whatever ends the
    document's lines. (line, column): where they meet, in characters. `anchor`: the column, on that line, from which an
    item replaces the text up to `end`, the cursor's column in the document.
    `head`: what such an item begins with; it stands in `before` already.
    """

    uri: str
    version: int | None
    language: str
    line: int
    column: int
    before: str
    after: str
    anchor: int
    end: int
    head: str = ""

    @property
    def line_before(self) -> str:
        """The cursor's line, up to the cursor."""
        return self.before[self.before.rfind("\n") + 1 :]

    @property
    def line_after(self) -> str:
        """What follows the cursor on its line."""
        return self.after.partition("\n")[0]

    def trimmed(self) -> View:
        """Return the place with no more text than it takes to know it again, and to shape what is said there."""
        return replace(self, before=self.before[-WINDOW_BEFORE:], after=self.after[:WINDOW_AFTER])

    def next_line(self) -> View:
        """Return the place where the next line would begin, as far to the right as this one."""
        line = self.line_before
        return self.behind("\n" + line[: len(line) - len(line.lstrip(" \t"))])

    def behind(self, text: str) -> View:
        """Return the place behind `text`, once it has been inserted here."""
        added = split_lines(text)
        line = self.line + len(added) - 1
        column = self.column + len(text) if len(added) == 1 else len(added[-1])
        return replace(
            self, line=line, column=column, before=self.before + text, anchor=column, end=column, head="", version=None
        )


def view_of(snapshot: Snapshot, selected: tuple[int, int, str] | None = None) -> View:
    """Return the place of a snapshot. `selected`: start and end column and text of what the editor's menu offers."""
    lines, line, column = snapshot.lines, snapshot.line, snapshot.column
    anchor, end, head = (column, column, "") if selected is None else selected
    first = max(line - LINES_BEFORE, 0) // STEP * STEP
    above = "".join(lines[first:line])
    if first == 0:
        above = snapshot.earlier + above
    before = above + lines[line][:anchor] + head
    after = lines[line][max(column, end) :] + "".join(lines[line + 1 : line + 1 + LINES_AFTER])
    return View(
        snapshot.uri,
        snapshot.version,
        snapshot.language,
        line,
        anchor + len(head),
        _encodable(_unix(before)),
        _encodable(_unix(after)),
        anchor,
        end,
        head,
    )


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _encodable(text: str) -> str:
    """Return the text with whole characters in place of halves: editors may delete one half of a surrogate pair.

    What is half stays one character, so that columns remain true; two halves that have met are rare, and one shorter.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
