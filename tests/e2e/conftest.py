"""One engine for all editors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import private_daemons


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment in which the bundled pair is started by the first editor and ended with the tests."""
    with private_daemons(tmp_path_factory.mktemp("engines")) as environment:
        yield environment


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty folder that is a workspace by itself."""
    folder = tmp_path / "work"
    (folder / ".git").mkdir(parents=True)
    return folder
