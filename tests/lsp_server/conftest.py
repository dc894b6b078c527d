"""Workspaces that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from lsp_server.context import ContextBuilder
from lsp_server.exclusions import Exclusions
from tests.lsp_server.ignore_trees import git


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, in a folder where nobody's own ignore files count."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


@pytest.fixture
def builder(root: Path) -> ContextBuilder:
    """What of the repository is shown."""
    return ContextBuilder(Exclusions([root]))
