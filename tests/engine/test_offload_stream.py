"""A streamed target computes what it computes in memory, wherever its layers lie and whatever happened before."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_stores import (
    LAYERS,
    PIECES,
    in_memory,
    logits,
    offloaded,
    same,
    use_small_blocks,
    write_target,
)
from torch import Tensor

from engine.errors import Cancelled, TreelineError
from engine.kernels import cpu
from engine.offload import direct
from engine.offload.repack import open_store
from engine.offload.store import Store
from engine.offload.stream import Ring, StreamedLayers

pytestmark = [
    pytest.mark.skipif(not cpu.available(), reason="streaming needs the native kernels"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A target whose store is made, with parts of several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        use_small_blocks(patch)
        patch.setenv("TREELINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        directory = write_target(tmp_path_factory.mktemp("target"))
        assert all(piece.blocks > 1 for piece in open_store(directory).pass_pieces)
        yield directory


@pytest.fixture(scope="module")
def expected(target: Path) -> Tensor:
    return logits(in_memory(target))


PLACES = [
    places
    for count in range(PIECES + 1)
    for places in itertools.combinations(range(PIECES), count)
    if count in (0, 1, PIECES - 1, PIECES)
]


@pytest.mark.parametrize("resident", PLACES, ids=str)
def test_every_piece_does_the_same_in_every_place(target: Path, expected: Tensor, resident: tuple[int, ...]) -> None:
    with offloaded(target, resident) as model:
        for _ in range(3):  # the ring goes round
            assert same(model, expected)


@pytest.mark.parametrize("slots", [2, 3, 4, PIECES, PIECES + 3])
def test_the_size_of_the_ring_changes_nothing(target: Path, expected: Tensor, slots: int) -> None:
    with offloaded(target, (1,), slots) as model:
        for _ in range(4):
            assert same(model, expected)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("dense", [(), (0, 3)])
def test_layers_may_have_biases_and_different_layouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, dense: tuple[int, ...]
) -> None:
    monkeypatch.setenv("TREELINE_CACHE", str(tmp_path / "cache"))
    directory = write_target(tmp_path / "target", family, dense)
    wanted = logits(in_memory(directory))
    with offloaded(directory, (2,)) as model:
        assert same(model, wanted)
        assert same(model, wanted)


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_was_abandoned_before_the_next_pass_is_right(
    target: Path, expected: Tensor, data: st.DataObject
) -> None:
    resident = data.draw(st.sets(st.integers(0, PIECES - 1), max_size=PIECES - 1))
    with offloaded(target, sorted(resident), data.draw(st.integers(2, 4))) as model:
        for stop in data.draw(st.lists(st.one_of(st.none(), st.integers(0, LAYERS - 1)), max_size=6)):
            if stop is None:
                assert same(model, expected)
            else:
                with pytest.raises(Cancelled):
                    logits(model, cancelled_before=stop)
        assert same(model, expected)


def test_the_next_pass_is_read_ahead(target: Path) -> None:
    with offloaded(target, (0, 1), slots=2) as model:
        logits(model)
        layers = model.layers
        assert isinstance(layers, StreamedLayers)
        store = open_store(target)
        streamed = [piece for number, piece in enumerate(store.pass_pieces) if layers.is_streamed(number)]
        per_pass = sum(piece.size for piece in streamed)
        ahead = sum(piece.size for piece in streamed[:2])
        wait_for(lambda: layers.bytes_read == per_pass + ahead)


def test_an_abandoned_iteration_that_is_closed_late_disturbs_nothing(target: Path, expected: Tensor) -> None:
    with offloaded(target) as model:
        abandoned = iter(model.layers)
        next(abandoned)
        next(abandoned)
        running = iter(model.layers)
        next(running)
        next(running)
        del abandoned
        assert len(list(running)) == LAYERS - 2
        assert same(model, expected)


class BrokenDisk:
    """Lets reads at some offsets fail until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: range) -> None:
        self.broken = broken
        self._read = os.preadv
        monkeypatch.setattr(direct.os, "preadv", self.preadv)

    def preadv(self, handle: int, buffers: list[memoryview], offset: int) -> int:
        if offset in self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._read(handle, buffers, offset)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_read_error_ends_the_pass_and_a_mended_disk_the_errors(
    target: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    with offloaded(target) as model:
        assert same(model, expected)
        piece = open_store(target).layer(layer)[layer % 2]
        disk = BrokenDisk(monkeypatch, range(piece.offset + 1, piece.offset + piece.size))  # all but its first block
        where = r"cannot read .*\.store at offset (\d+): Input/output error"
        with contextlib.suppress(TreelineError):  # it may find in the ring what it needs
            logits(model)
        for _ in range(2):
            with pytest.raises(TreelineError) as caught:
                logits(model)
            found = re.search(where, str(caught.value))
            assert found
            assert int(found[1]) in disk.broken  # blocks are read at the same time: any may be the first to fail
        disk.broken = range(0)
        assert same(model, expected)
        assert same(model, expected)


def test_whatever_fails_in_a_reader_ends_the_pass_and_is_gone_once_mended(
    target: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_block(*_: object) -> int:
        raise RuntimeError

    def passes(count: int) -> None:
        for _ in range(count):
            logits(model)

    with offloaded(target) as model:
        with monkeypatch.context() as broken:
            broken.setattr(Store, "read_block", read_block)
            for _ in range(2):
                with pytest.raises(TreelineError, match="weights could not be read: RuntimeError$") as caught:
                    passes(3)  # the first ones may find in the ring what they need
                assert isinstance(caught.value.__cause__, RuntimeError)
        assert same(model, expected)


@pytest.mark.parametrize("call", ["open", "preadv"])
def test_file_systems_without_direct_access_are_read_through_the_cache(
    target: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    real, refused = getattr(os, call), []

    def refuse(*arguments: object, **options: object) -> object:
        number = int(str(arguments[1] if call == "open" else 0))
        if call == "open" and number & os.O_DIRECT:
            refused.append(number)
            raise OSError(errno.EINVAL, "Invalid argument")
        if call == "preadv" and fcntl_flags(arguments[0]) & os.O_DIRECT:
            refused.append(number)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(*arguments, **options)

    monkeypatch.setattr(direct.os, call, refuse)
    with caplog.at_level("WARNING"), offloaded(target, (1,)) as model:
        assert same(model, expected)
        assert same(model, expected)
    assert refused
    assert [record.message for record in caplog.records if "O_DIRECT" in record.message][1:] == []
    assert "no direct access" in caplog.text


def fcntl_flags(handle: object) -> int:
    import fcntl

    return fcntl.fcntl(int(str(handle)), fcntl.F_GETFL)


def test_closing_ends_the_threads_and_what_waits_for_them(target: Path) -> None:
    before = set(threading.enumerate())
    store = open_store(target)
    ring = Ring(store, store.pass_pieces[:2], slots=3, readers=3)
    assert len(set(threading.enumerate()) - before) == 3
    ring.take()
    ring.close()
    assert set(threading.enumerate()) == before
    ring.give_back()

    def take_all() -> None:
        for _ in range(4):  # what is there already may be taken
            ring.take()
            ring.give_back()

    with pytest.raises(TreelineError, match="closed"):
        take_all()


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds; the test's own timeout ends it otherwise."""
    tick = threading.Event()
    while not condition():
        tick.wait(0.01)
