"""What became of suggestions: shown, accepted whole or in part, and how many characters that saved typing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lsp_server.ask import Item
from lsp_server.documents import Edit


@dataclass(frozen=True, slots=True)
class Pending:
    """A suggestion that an editor was given. `typed`: characters of the item that stood in the document then.

    `in_part`: some of it has been accepted.
    """

    text: str
    line: int
    start: int
    typed: int
    in_part: bool = False


@dataclass(slots=True)
class Counts:
    """Totals of a session. A suggestion is counted as accepted, or as accepted in part, or as neither."""

    shown: int = 0
    accepted: int = 0
    accepted_in_part: int = 0
    characters: int = 0


class Feedback:
    """Infers from the edits that follow whether a suggestion was taken: clients need not say so."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._pending: dict[str, Pending] = {}

    def shown(self, uri: str, item: Item, line: int, column: int) -> None:
        """An editor was given `item` while its cursor was at (line, column)."""
        before = self._pending.get(uri)
        same = before is not None and before.text == item.text and before.start == item.start
        if not same:
            self.counts.shown += 1
        in_part = before.in_part if before is not None and same else False
        self._pending[uri] = Pending(item.text, line, item.start, max(0, column - item.start), in_part)

    def edited(self, uri: str, edit: Edit | None) -> bool:
        """Note an edit; say whether it was the acceptance of all that was shown."""
        pending = self._pending.get(uri)
        if pending is None or edit is None or not edit.text:
            return False
        rest = pending.text[pending.typed :]
        if len(edit.text) == 1:  # typing
            if rest.startswith(edit.text):
                self._pending[uri] = replace(pending, typed=pending.typed + 1)
            return False
        if edit.text in (pending.text, rest):
            del self._pending[uri]
            self.counts.accepted += 1
            self.counts.accepted_in_part -= pending.in_part
            self.counts.characters += len(rest)
            return True
        if rest.startswith(edit.text):
            self.counts.accepted_in_part += not pending.in_part
            self.counts.characters += len(edit.text)
            self._pending[uri] = replace(pending, typed=pending.typed + len(edit.text), in_part=True)
        return False

    def closed(self, uri: str) -> None:
        """A document is closed."""
        self._pending.pop(uri, None)
