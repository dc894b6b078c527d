"""Editors without inline completion: their own clients, a request by hand, and the fallback in their menus."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.editors import LIMIT_SECONDS, ROOT, debian, run

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 30)


def test_neovim_of_debian(workspace: Path, daemons: dict[str, str]) -> None:
    neovim = debian("nvim", "neovim")
    script = HERE / "nvim" / "raw_request.lua"
    said = run([neovim, "--headless", "--clean", "-n", "-c", f"luafile {script}"], workspace, daemons).stdout
    assert said.endswith("PASSED\n"), said


def test_the_check_of_the_plug_in_says_that_neovim_is_too_old(workspace: Path, daemons: dict[str, str]) -> None:
    neovim = debian("nvim", "neovim")
    show = "+checkhealth treeline", "+silent write! said.txt", "+qall!"
    command = [neovim, "--headless", "--clean", "--cmd", f"set runtimepath^={ROOT / 'editors/nvim'}", *show]
    run(command, workspace, daemons)
    assert "ERROR: Neovim 0.10 or newer is needed" in (workspace / "said.txt").read_text(encoding="utf-8")


def test_emacs_with_eglot(workspace: Path, daemons: dict[str, str]) -> None:
    emacs = debian("emacs", "emacs-nox elpa-eglot")
    said = run([emacs, "-Q", "--batch", "-l", str(HERE / "eglot.el")], workspace, daemons).stdout
    assert said.endswith("PASSED\n"), said
