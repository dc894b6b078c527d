"""Small things that every training step shares: progress lines, errors with one clear message, file hashes."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path


class TrainingError(Exception):
    """A failure the user can mend; its message is one line and is printed without a traceback."""


def progress(message: str) -> None:
    """Write one progress line to standard error."""
    print(message, file=sys.stderr, flush=True)


def default_cache() -> Path:
    """Folder for archives, corpus and checkpoints: ``$TREELINE_TRAINING_CACHE`` or the user's cache folder."""
    explicit = os.environ.get("TREELINE_TRAINING_CACHE")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "treeline-training"


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require(path: Path, made_by: str) -> Path:
    """Return ``path`` if it exists; otherwise say which command makes it."""
    if not path.exists():
        raise TrainingError(f"{path} does not exist; make it with: {made_by}")
    return path
