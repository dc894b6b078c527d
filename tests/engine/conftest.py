"""Checkpoints that several test files use."""

from __future__ import annotations

import pytest
from pairs import PairPaths, write_pair


@pytest.fixture(scope="session")
def pair_paths(tmp_path_factory: pytest.TempPathFactory) -> PairPaths:
    """A small pair on disk, with an AWQ copy of its target."""
    return write_pair(tmp_path_factory.mktemp("pair"))
