"""The base protocol: where one message ends and the next begins in a stream of bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST_HEADER = 1 << 16
_LENGTH = re.compile(rb"content-length[ \t]*:[ \t]*(\d{1,12})[ \t]*", re.IGNORECASE)


class Framing:
    """Takes bytes as they come and gives the bodies of whole messages.

    Names of header fields are read in any case, lines may end with a line feed alone, and other fields are skipped.
    A header without a length is skipped up to the next one: one bad message does not end a session.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._length: int | None = None
        self._in_body = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that `data` completes. Take them all before feeding more."""
        self._data += data
        while True:
            if not self._in_body and not self._header():
                return
            length = self._length or 0
            if len(self._data) < length:
                return
            body = bytes(self._data[:length])
            del self._data[:length]
            self._length, self._in_body = None, False
            yield body

    def _header(self) -> bool:
        """Read header lines; say whether the body begins."""
        while (end := self._data.find(b"\n")) >= 0:
            line = bytes(self._data[:end]).removesuffix(b"\r")
            del self._data[: end + 1]
            if found := _LENGTH.fullmatch(line):
                self._length = int(found[1])
            elif not line.strip() and self._length is not None:
                self._in_body = True
                return True
        if len(self._data) > LONGEST_HEADER:
            self._data.clear()  # no header is so long: whatever this is, it is not kept
        return False
