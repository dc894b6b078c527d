"""Treeline's extras: how to install what a part of Treeline needs and does not find."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def installing(*extras: str) -> str:
    """Return the command that adds extras of Treeline to the Python that runs.

    Never `treeline[...]` by name alone: what the package index has under this name is not this program. In a clone the
    extras are those of its pyproject.toml; elsewhere their packages are named one by one.
    """
    installer = [sys.executable, "-m", "pip", "install"]
    if find_spec("pip") is None:  # as in environments that uv has made
        installer = ["uv", "pip", "install", "--python", sys.executable]
    if (_ROOT / "pyproject.toml").is_file():
        return shlex.join([*installer, "-e", f"{_ROOT}[{','.join(extras)}]"])
    return shlex.join([*installer, *dict.fromkeys(package for extra in extras for package in _packages(extra))])


def _packages(extra: str) -> list[str]:
    """Return what an extra of the installed Treeline asks for, as requirements; nothing if it is not installed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        stated = [line.partition(";") for line in requires("treeline") or ()]
    except PackageNotFoundError:
        return []
    return [
        requirement.strip() for requirement, _, marker in stated if f"extra == '{extra}'" in marker.replace('"', "'")
    ]
