"""What is measured of a disk is what was read."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import TreelineError
from engine.offload import measure
from engine.offload.blob import SECTOR
from engine.offload.direct import BLOCK, DirectFile
from engine.offload.measure import Reading, ReadShape, read_bandwidth, reading_cost

SHAPE = ReadShape(3, SECTOR)
BLOCKS = 40


@pytest.fixture
def file(tmp_path: Path) -> Iterator[DirectFile]:
    path = tmp_path / "file"
    path.write_bytes(bytes(BLOCKS * SECTOR))
    opened = DirectFile(path)
    yield opened
    opened.close()


def test_every_block_is_read_once(file: DirectFile, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = DirectFile.read, list[int]()
    monkeypatch.setattr(DirectFile, "read", lambda self, view, offset: seen.append(offset) or read(self, view, offset))
    reading = Reading(file, range(0, BLOCKS * SECTOR, SECTOR), SHAPE)
    reading.join()
    assert reading.bytes_read == BLOCKS * SECTOR
    assert sorted(seen) == list(range(0, BLOCKS * SECTOR, SECTOR))
    assert read_bandwidth(file, SHAPE, 0, BLOCKS * SECTOR) > 0


def test_endless_reading_stops_when_told(file: DirectFile) -> None:
    before = set(threading.enumerate())
    reading = Reading(file, itertools.repeat(0), SHAPE)
    assert len(set(threading.enumerate()) - before) == SHAPE.threads
    while reading.bytes_read < 100 * SECTOR:
        pass
    reading.stop()
    assert reading.bytes_read % SECTOR == 0
    assert set(threading.enumerate()) == before


def test_a_read_error_is_raised_by_who_waits(file: DirectFile) -> None:
    with pytest.raises(TreelineError, match="ends at offset"):
        read_bandwidth(file, SHAPE, 0, (BLOCKS + 1) * SECTOR)


@pytest.mark.parametrize(("alone", "beside", "costs"), [(1.0, 1.25, True), (1.0, 0.9, False)])
def test_reading_costs_what_computing_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: float, beside: float, costs: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * BLOCK))
    opened = DirectFile(path)
    times, second = iter((alone, beside)), measure.time.sleep
    monkeypatch.setattr(measure, "_repeated", lambda work, seconds: second(0.2) or next(times))
    cost = reading_cost(opened, 2 * BLOCK)
    assert cost > 0 if costs else cost == 0
    assert reading_cost(opened, BLOCK - 1) == 0
    opened.close()
