"""A short form of `benchmarks.soak`: requests given up at random moments do the others no harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import soak
from engine.config import EngineConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads another process's memory from /proc")
def test_requests_that_are_given_up_do_the_others_no_harm() -> None:
    text = (ROOT / "engine" / "engine.py").read_text(encoding="utf-8")
    result = soak(EngineConfig(), text, count=40, early=20, clients=3, seed=1)
    assert result.answered > 10
    assert result.cancelled > 5
    assert result.differing == 0
    assert result.early_bytes > 0
