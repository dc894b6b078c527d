"""A short soak: two servers, one daemon that is killed once, and everybody agrees in the end."""

from __future__ import annotations

import asyncio

from benchmarks.lsp_soak import soak
from engine.bench_replay import private_runtime
from engine.config import EngineConfig


def test_three_hundred_operations_lose_nothing() -> None:
    told: list[str] = []
    with private_runtime(EngineConfig()) as (variables, folder):
        result = asyncio.run(soak(variables, folder, 300, 6, 600, 1, seed=1, tell=told.append))
    assert result.wrong(memory=False) == "", result.unexpected
    assert result.requests > 100
    assert sum(result.answers.values()) == result.requests
    assert result.kills == 1
    assert len(result.bytes) == 10
    assert all(result.bytes[0])
