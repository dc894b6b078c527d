"""Editors without inline completion: their own clients, a request by hand, and the fallback in their menus."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.editors import LIMIT_SECONDS, debian, run

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 30)


def test_neovim_of_debian(workspace: Path, daemons: dict[str, str]) -> None:
    neovim = debian("nvim", "neovim")
    script = HERE / "nvim" / "raw_request.lua"
    said = run([neovim, "--headless", "--clean", "-n", "-c", f"luafile {script}"], workspace, daemons).stdout
    assert said.endswith("PASSED\n"), said


def test_emacs_with_eglot(workspace: Path, daemons: dict[str, str]) -> None:
    emacs = debian("emacs", "emacs-nox elpa-eglot")
    said = run([emacs, "-Q", "--batch", "-l", str(HERE / "eglot.el")], workspace, daemons).stdout
    assert said.endswith("PASSED\n"), said
