"""Git's ignore patterns (gitignore(5)), as git itself matches them: byte by byte, one directory level after the other.

`IgnoreFile.verdict` answers for one entry of a tree. What is inside an ignored directory is ignored whatever the files
in it say, so a caller asks for every directory on the way down first.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass

_NEVER = "(?!)"
_ANY, _ANY_BUT_SLASH = "(?s:.*)", "[^/]*"
_SPECIAL = re.compile(rb"[*?\[\\]")
_BOM = b"\xef\xbb\xbf"
_CLASSES = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, [*range(32), 127])),
    "digit": string.digits,
    "graph": string.ascii_letters + string.digits + string.punctuation,
    "lower": string.ascii_lowercase,
    "print": string.ascii_letters + string.digits + string.punctuation + " ",
    "punct": string.punctuation,
    "space": " \t\n\v\f\r",
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}


@dataclass(frozen=True, slots=True)
class _Rule:
    """One pattern. `anchored`: it is for the whole path below the ignore file's directory, not for the last name."""

    matches: re.Pattern[bytes]
    ignores: bool
    directories_only: bool
    anchored: bool


@dataclass(frozen=True, slots=True)
class IgnoreFile:
    """The patterns of one file, last one first: the last that matches decides."""

    rules: tuple[_Rule, ...]

    def verdict(self, relative: str, is_directory: bool) -> bool | None:
        """Say whether an entry is ignored (True), asked for in spite of other patterns (False), or not named (None).

        `relative` is its path below the ignore file's directory, with forward slashes.
        """
        path = os.fsencode(relative)
        name = path.rpartition(b"/")[2]
        for rule in self.rules:
            if (is_directory or not rule.directories_only) and rule.matches.fullmatch(path if rule.anchored else name):
                return rule.ignores
        return None


def parse_ignore_file(data: bytes, ignore_case: bool = False) -> IgnoreFile:
    """Read the patterns of a `.gitignore`, `.git/info/exclude` or `.treelineignore`. No content is an error."""
    return IgnoreFile(tuple(_rules(data, ignore_case))[::-1])


def _rules(data: bytes, ignore_case: bool) -> Iterator[_Rule]:
    for line in data.removeprefix(_BOM).split(b"\n"):
        pattern = _without_trailing_spaces(line.removesuffix(b"\r"))
        if not pattern or pattern.startswith(b"#"):
            continue
        ignores = not pattern.startswith(b"!")
        pattern = pattern if ignores else pattern[1:]
        directories_only = pattern.endswith(b"/")
        pattern = pattern.removesuffix(b"/")
        anchored = b"/" in pattern
        if anchored:
            pattern = pattern.removeprefix(b"/")
        compiled = re.compile(_translate(pattern).encode("latin-1"), re.IGNORECASE if ignore_case else 0)
        yield _Rule(compiled, ignores, directories_only, anchored)


def _without_trailing_spaces(line: bytes) -> bytes:
    """Drop trailing spaces but those behind a backslash; tabs stay."""
    kept, index = 0, 0
    while index < len(line):
        if line[index : index + 1] == b"\\":
            index += 1
        elif line[index : index + 1] == b" ":
            index += 1
            continue
        index += 1
        kept = index
    return line[:kept]


def _translate(pattern: bytes) -> str:
    """Return the regular expression of a pattern, its bytes spelled as Latin-1.

    git compares what stands before the first special character by itself, so `a**/b` is `a` and then `**/b` as if it
    stood at the beginning: that is kept.
    """
    special = _SPECIAL.search(pattern)
    literal = pattern[: special.start()] if special else pattern
    rest = pattern[len(literal) :].decode("latin-1")
    parts: list[str] = []
    at = 0
    while at < len(rest):
        if rest[at] == "*":
            part, at = _stars(rest, at)
        elif rest[at] == "[":
            part, at = _bracket(rest, at + 1)
        elif rest[at] == "?":
            part, at = "[^/]", at + 1
        elif rest[at] == "\\":
            part, at = (re.escape(rest[at + 1]) if at + 1 < len(rest) else _NEVER), at + 2
        else:
            part, at = re.escape(rest[at]), at + 1
        parts.append(part)
    return re.escape(literal.decode("latin-1")) + "".join(parts)


def _stars(pattern: str, at: int) -> tuple[str, int]:
    """Translate a run of stars; two or more that fill a path's part span directories, with a slash behind also none."""
    end = at
    while end < len(pattern) and pattern[end] == "*":
        end += 1
    after = pattern[end:]
    alone = (at == 0 or pattern[at - 1] == "/") and (not after or after.startswith(("/", "\\/")))
    if end - at < 2 or not alone:
        return _ANY_BUT_SLASH, end
    return (f"(?:{_ANY}/)?", end + 1) if after.startswith("/") else (_ANY, end)


def _bracket(pattern: str, at: int) -> tuple[str, int]:
    """Translate what is inside brackets, `at` being behind the opening one; an unfinished one matches nothing."""
    negated = pattern[at : at + 1] in ("!", "^")
    at += negated
    allowed: set[str] = set()
    previous, first = "", True
    while first or pattern[at : at + 1] != "]":
        first = False
        character = pattern[at : at + 1]
        if character == "[" and pattern[at + 1 : at + 2] == ":":
            end = pattern.find("]", at + 2)
            if end < 0:
                return _NEVER, len(pattern)
            if end > at + 2 and pattern[end - 1] == ":":
                name = pattern[at + 2 : end - 1]
                if name not in _CLASSES:
                    return _NEVER, len(pattern)
                allowed.update(_CLASSES[name])
                previous, at = "", end + 1
                continue
        is_range = character == "-" and previous and pattern[at + 1 : at + 2] not in ("", "]")
        at += bool(is_range)
        if pattern[at : at + 1] == "\\":
            at += 1
        if at >= len(pattern):
            return _NEVER, len(pattern)
        if is_range:
            allowed.update(map(chr, range(ord(previous), ord(pattern[at]) + 1)))
        else:
            allowed.add(pattern[at])
        previous, at = ("" if is_range else pattern[at]), at + 1
    allowed = (set(map(chr, range(256))) - allowed if negated else allowed) - {"/"}
    return ("[" + "".join(map(re.escape, sorted(allowed))) + "]" if allowed else _NEVER), at + 1
