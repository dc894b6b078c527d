"""How much room a place has, also one that is not there yet. Standard library only."""

from __future__ import annotations

import shutil
from pathlib import Path


def free_space(place: Path) -> tuple[Path, int]:
    """Return the nearest folder above `place` (or itself) that exists, and the bytes that are free there."""
    folder = place.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder, shutil.disk_usage(folder).free
