"""The bytes of every token: decoding, and which tokens may continue a half-typed word."""

from __future__ import annotations

import codecs
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

_SMALL = 4096  # up to here sorting a range of ids is cheaper than marking them in a bitmap of the vocabulary
_CACHED = 256


def byte_level_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Byte-level BPE (GPT-2's, `openai/gpt-2` encoder.py) writes every byte as one printable character: printable Latin-1
    bytes stand for themselves, the other 68 are numbered from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


class TokenTable:
    """The bytes of every token, indexed by id and, for prefix queries, sorted.

    `tokens[id]` is empty for control tokens and unused ids: they stand for no text.
    """

    __slots__ = ("_allowed", "_ids", "_sorted", "tokens")

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = tuple(tokens)
        self._sorted: list[bytes] = []
        self._ids = np.zeros(0, np.int64)
        self._allowed: dict[bytes, Ids] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def _build(self) -> None:
        # sorted once, at the first query: 0.1 s for 150 thousand tokens, and nobody waits who never heals
        order = sorted((i for i, token in enumerate(self.tokens) if token), key=self.tokens.__getitem__)
        self._ids = np.array(order, np.int64)
        self._sorted = [self.tokens[i] for i in order]

    def _range(self, prefix: bytes) -> tuple[int, int]:
        """Return the range of sorted tokens which start with `prefix` (not empty)."""
        if not self._sorted:
            self._build()
        start = bisect_left(self._sorted, prefix)
        # the smallest byte string above everything that starts with the prefix
        stem = prefix.rstrip(b"\xff")
        if not stem:
            return start, len(self._sorted)
        return start, bisect_left(self._sorted, stem[:-1] + bytes([stem[-1] + 1]), start)

    def extends(self, prefix: bytes) -> bool:
        """Say whether some token starts with `prefix` and goes on."""
        start, end = self._range(prefix)
        while start < end and len(self._sorted[start]) == len(prefix):
            start += 1
        return start < end

    def allowed(self, required: bytes) -> Ids:
        """Return the ids, ascending, of tokens that start with `required` or are a non-empty prefix of it.

        These are the tokens that may come next while `required` bytes are owed. Control tokens are never among them.
        Raises ValueError if nothing is owed: then every token may come.
        """
        if not required:
            raise ValueError("allowed() asks for at least one required byte")
        found = self._allowed.get(required)
        if found is None:
            found = self._find(required)
            if len(self._allowed) >= _CACHED:
                self._allowed.clear()
            self._allowed[required] = found
        return found

    def _find(self, required: bytes) -> Ids:
        start, end = self._range(required)
        parts = [self._ids[start:end]]
        for length in range(1, len(required)):
            lower = bisect_left(self._sorted, required[:length])
            upper = lower
            while (
                upper < len(self._sorted)
                and len(self._sorted[upper]) == length
                and (self._sorted[upper] == required[:length])
            ):
                upper += 1  # several ids may spell the same bytes (byte fallback beside a plain letter)
            parts.append(self._ids[lower:upper])
        ids = np.concatenate(parts)
        if len(ids) <= _SMALL:
            ids.sort()
        else:
            marked = np.zeros(len(self.tokens), np.bool_)
            marked[ids] = True
            ids = np.flatnonzero(marked)
        ids.flags.writeable = False  # shared with later callers
        return ids


class IncrementalDecoder:
    """Turns bytes into text as they come: characters that are cut between two tokens wait for their end.

    The concatenation of all results, `flush` included, equals `bytes.decode("utf-8", "replace")` of all bytes.
    """

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """Return the text that `data` completes."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """End the text: what is left of a cut character becomes U+FFFD."""
        return self._decoder.decode(b"", True)
