"""A document as it was at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SourceText:
    """A document's text; an edit makes a new one.

    `path` is absolute, or None for what is not on disk. `language` is the Language Server Protocol's languageId.
    `lines` are with or without their line breaks and are never changed.
    """

    uri: str
    path: Path | None
    language: str
    lines: Sequence[str]
