"""What is known of a file without its bodies: the shapes that the languages share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement, or a part of it.

    `module`: as written, without the leading dots that `level` counts. `names`: pairs of the name over there and the
    name here. With no names the module itself is bound to `alias`; the name "*" stands for all.
    """

    module: str
    names: tuple[tuple[str, str], ...] = ()
    alias: str = ""
    level: int = 0


@dataclass(frozen=True, slots=True)
class Outline:
    """A file's definitions by name, each as a few lines of code, and what it imports (and so may pass on)."""

    definitions: Mapping[str, str] = field(default_factory=dict[str, str])
    imports: tuple[Import, ...] = ()


def shortened(text: str, most_lines: int = 40, most_characters: int = 1500) -> str:
    """Return whole lines of a definition, as many as are allowed, with a line feed at the end."""
    kept: list[str] = []
    left = most_characters
    for line in text.split("\n")[:most_lines]:
        left -= len(line) + 1
        if left < 0:
            break
        kept.append(line.rstrip())
    return "".join(line + "\n" for line in kept if line)
