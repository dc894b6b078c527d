"""Encoding a text again after a small edit: pieces whose tokens cannot depend on their neighbours are cached.

Most keystrokes change one line of a file. A tokenizer has *safe* places, where a text may be cut so that the ids of the
two parts, one after the other, are the ids of the whole. Cutting every line at its first safe place gives segments that
an edit elsewhere does not move, so a dictionary finds all but the edited ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product

import tokenizers

from engine.tokenizer_files import Json, components

_GENERATION = 1 << 20  # characters kept at least: several large files, in some ten megabytes
_OVERHEAD = 32  # what a segment counts for beside its characters
_PLAIN_NORMALIZERS = frozenset({"NFC", "Replace", "Prepend"})
_PLAIN_PRE_TOKENIZERS = frozenset({"ByteLevel", "Split", "Digits", "Metaspace", "Punctuation"})
_BEFORE = ("", "a", "1", " ", "  ", ".", "_", "\n", "\t", "a.", "'", "\u00e9", "\u4e2d", "12")
_AFTER = ("", "a", "1", " ", "  a", "\t", "\n", "\n\n", "\na", "(", "_", "  \n", "'s", "\u00e9", "\u0301", "\u4e2d")
# what makes a pattern look to the left, or at more than the text that follows
_LOOKS_LEFT = re.compile(r"\(\?<|\\[bBAGKzZ]|(?<![\[\\])\^|\$")


class SegmentCache:
    """Encodes texts segment by segment, remembering the ids of the segments used last.

    Two generations: what the younger lacks is looked up in the older; a full younger one becomes the older.
    """

    __slots__ = ("_encode", "_held", "_older", "_pattern", "_younger")

    def __init__(self, encode: Callable[[str], list[int]], followers: str) -> None:
        """Take the full encoder and what `safe_followers` returned for it; without any, nothing is cached."""
        self._encode = encode
        self._younger: dict[str, list[int]] = {}
        self._older: dict[str, list[int]] = {}
        self._held = 0  # characters of the younger
        # a segment ends at the first safe place of the next line: places that only the text around them decides
        rule = rf"[^\n]*+\n(?:[^0-9A-Za-z]*+[0-9A-Za-z]++)+?(?=[{followers}])"
        self._pattern = re.compile(rule) if followers else None

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, equal to those of the full encoder."""
        if self._pattern is None:
            return self._encode(text)
        ids: list[int] = []
        start = 0
        while found := self._pattern.match(text, start):
            ids += self._segment(found[0])
            start = found.end()
        return ids + self._segment(text[start:]) if start < len(text) else ids

    def _segment(self, text: str) -> list[int]:
        ids = self._younger.get(text)
        if ids is None:
            ids = self._older.get(text)
            if ids is None:
                ids = self._encode(text)
            if self._held >= _GENERATION:
                self._older, self._younger, self._held = self._younger, {}, 0
            self._younger[text] = ids
            self._held += len(text) + _OVERHEAD
        return ids


def safe_followers(document: Json, fast: tokenizers.Tokenizer, spelled: Sequence[bytes]) -> str:
    """Return which of space and newline make a safe cut between a letter or digit and themselves.

    Safe means: no token holds the pair, so that no merge reaches across the cut (byte-pair merges on one side then do
    not depend on the other); the normalizer and the pre-tokenizer are of kinds that read from left to right without
    looking back; and the pre-tokenizer, tried on a few thousand surroundings, always cuts there. `document` is the
    parsed tokenizer.json, `fast` the tokenizer in use, `spelled` every token's bytes.
    """
    if not _reads_forward(document):
        return ""
    parts = components(document.get("pre_tokenizer"))
    joined = [token for token in spelled if len(token) > 1 and (b" " in token[1:] or b"\n" in token[1:])]
    safe = ""
    for follower in (" ", "\n"):
        pair = re.compile(rb"[0-9A-Za-z]" + re.escape(follower.encode()))
        if not any(pair.search(token) for token in joined) and _always_cuts(fast, parts, follower):
            safe += follower
    return safe


def _reads_forward(document: Json) -> bool:
    normalizers = components(document.get("normalizer"))
    pre_tokenizers = components(document.get("pre_tokenizer"))
    if any(part["type"] not in _PLAIN_NORMALIZERS for part in normalizers):
        return False
    if any(part["type"] == "Replace" and part["pattern"].get("String") != " " for part in normalizers):
        return False
    for part in pre_tokenizers:
        pattern: Json = part["pattern"] if part["type"] == "Split" else {}
        if part["type"] not in _PLAIN_PRE_TOKENIZERS or _LOOKS_LEFT.search(str(pattern.get("Regex", ""))):
            return False
    odd = ("lstrip", "rstrip", "single_word")
    added: list[Json] = document.get("added_tokens") or []
    return not any(token.get(flag) for token in added for flag in odd)


def _always_cuts(fast: tokenizers.Tokenizer, parts: Sequence[Json], follower: str) -> bool:
    """Try the pre-tokenizer on many surroundings: the pieces of both sides must be the pieces of the whole."""
    pre_tokenizer = fast.pre_tokenizer
    if pre_tokenizer is None or all(part["type"] == "Metaspace" for part in parts):
        return True  # one piece, or pieces that begin at every space: the merges alone decide

    def pieces(text: str) -> list[str]:
        return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]

    left = {before + char: pieces(before + char) for before, char in product(_BEFORE, "aZ0")}
    right = {follower + after: pieces(follower + after) for after in _AFTER}
    return all(pieces(a + b) == left[a] + right[b] for a, b in product(left, right))
