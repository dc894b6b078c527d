"""Checkpoints that several test modules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.engine.checkpoints import Made
    from tests.engine.pairs import PairPaths


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """The fp32 checkpoint of a row of `tests.engine.checkpoints.VARIANTS`, made once."""
    from tests.engine import checkpoints

    made: dict[str, Made] = {}

    def get(variant: str) -> Made:
        if variant not in made:
            directory = tmp_path_factory.mktemp(variant)
            made[variant] = checkpoints.make(directory, checkpoints.VARIANTS[variant]())
        return made[variant]

    return get


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch: models this small only lose time to a second one, a lot of it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pair_paths(tmp_path_factory: pytest.TempPathFactory) -> PairPaths:
    """A small pair on disk, with an AWQ copy of its target."""
    from tests.engine import pairs

    return pairs.write_pair(tmp_path_factory.mktemp("pair"))
