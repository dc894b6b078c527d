"""What the target has said beside a completion, as text: where each branch leaves it, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from engine.request import Branch
from engine.speculation.verifier import Alternative
from engine.token_table import IncrementalDecoder


class BranchReader:
    """Turns the alternatives of each step of one completion into branches of its text."""

    def __init__(self, token_bytes: Callable[[int], bytes], stop_ids: Collection[int], required: bytes) -> None:
        """`required`: the bytes that token healing owes; they are not part of the text."""
        self._token_bytes = token_bytes
        self._stop_ids = frozenset(stop_ids)
        self._required = required
        self._said = b""  # by the completion so far, the required bytes included

    def read(self, chosen: Sequence[int], found: Iterable[tuple[Alternative, float]]) -> tuple[Branch, ...]:
        """Return the branches that a step offers beside the tokens that it has chosen."""
        branches = (self._branch(chosen[: each.depth], each.tokens, logprob) for each, logprob in found)
        read = tuple(branch for branch in branches if branch is not None)
        self._said += self._spell(chosen)
        return read

    def _branch(self, before: Sequence[int], tokens: Sequence[int], logprob: float) -> Branch | None:
        """Return a branch, or None where it has no text of its own or begins within a character."""
        stem = self._said + self._spell(before)
        text = stem + self._spell(tokens)
        owed = len(self._required)
        if text[:owed] != self._required[: len(text)] or len(text) <= owed:
            return None
        decoder = IncrementalDecoder()
        offset = len(decoder.push(stem[owed:]))
        if offset != len(stem[owed:].decode("utf-8", "replace")):
            return None  # the decoder holds a part of a character
        said = decoder.push(text[max(owed, len(stem)) :])
        return Branch(offset, said, logprob) if said else None

    def _spell(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of tokens up to an end token."""
        spelled: list[bytes] = []
        for token in tokens:
            if token in self._stop_ids:
                break
            spelled.append(self._token_bytes(token))
        return b"".join(spelled)
