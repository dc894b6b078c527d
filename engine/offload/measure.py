"""What this machine's disk and processor reach: the planner's figures, and the benchmark's yardstick."""

from __future__ import annotations

import itertools
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.kernels.packed import PackedLinear, dense_shape
from engine.kernels.weights import NativeWeights, Shape, block_bytes
from engine.model.config import ModelConfig
from engine.model.transformer import FusedLayer, Transformer, rope_table
from engine.offload.blob import BlobLayout
from engine.offload.direct import BLOCK, Buffer, DirectFile
from engine.offload.store import READERS

MIB = 2**20
PAST = 512  # positions that the rows of a timed pass see
ROWS = (1, 2, 4, 8, 16, 32, 64)  # of timed passes
SPILL = 256 * MIB  # of weights that a timed pass goes through: more than caches hold
HEAD_OUTPUTS = 16384  # of the part of the output projection that is timed
PROBE_ROWS, PROBE_INPUTS, PROBE_OUTPUTS = 16, 2048, 4096  # of a product bound by arithmetic, beside which is read
FILLING = 0x11  # a byte that makes small, normal numbers in every format of the weights


@dataclass(frozen=True, slots=True)
class ReadShape:
    """How a file is read: `threads` of them, `block` bytes each at a time."""

    threads: int
    block: int

    def __str__(self) -> str:
        return f"{self.threads} x {self.block // MIB} MiB"


READ_SHAPES = (ReadShape(2, 4 * MIB), ReadShape(4, 4 * MIB), ReadShape(2, 16 * MIB), ReadShape(8, 1 * MIB))


class Reading:
    """Reads blocks of a file in several threads, in the background, from `began` on; counts the bytes."""

    def __init__(self, file: DirectFile, offsets: Iterable[int], shape: ReadShape) -> None:
        """Begin with those at `offsets`, multiples of the shape's block, until they end or it is stopped."""
        self.bytes_read = 0
        self._file = file
        self._offsets = iter(offsets)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        memory = Buffer(shape.threads * shape.block)
        memory.tensor.zero_()  # the pages are there before the clock runs
        views = [memory.view[start : start + shape.block] for start in range(0, memory.size, shape.block)]
        self._threads = [threading.Thread(target=self._work, args=(view,), daemon=True) for view in views]
        self.began = time.perf_counter()
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the end. Raises TreelineError if a block could not be read."""
        for thread in self._threads:
            thread.join()
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Begin no further block, and wait for those in progress. Raises as `join`."""
        with self._lock:
            self._offsets = iter(())
        self.join()

    def _work(self, view: memoryview) -> None:
        while True:
            with self._lock:
                offset = next(self._offsets, None)
            if offset is None or self._error:
                return
            try:
                self._file.read(view, offset)
            except BaseException as error:  # noqa: BLE001 - raised in `join`
                self._error = error
                return
            with self._lock:
                self.bytes_read += len(view)


def read_bandwidth(file: DirectFile, shape: ReadShape, start: int, end: int) -> float:
    """Bytes per second of reading [start, end) of `file`, multiples of the shape's block. Raises TreelineError."""
    reading = Reading(file, range(start, end - shape.block + 1, shape.block), shape)
    reading.join()
    return reading.bytes_read / (time.perf_counter() - reading.began)


def reading_cost(file: DirectFile, size: int, seconds: float = 1.0) -> float:
    """Seconds of computing that are lost per byte read at the same time. Raises TreelineError if it cannot be read.

    Reading past the page cache takes processor time as well (the kernel's, a virtual machine's), and memory bandwidth.
    `size`: of the file; too small to be read in blocks, it costs nothing. `seconds`: how long to compute, alone and
    again beside the reading.
    """
    if size < BLOCK:
        return 0.0
    projection = _projection(dense_shape(PROBE_OUTPUTS, PROBE_INPUTS))
    rows = torch.zeros(PROBE_ROWS, PROBE_INPUTS)
    alone = _repeated(lambda: projection(rows), seconds)
    reading = Reading(file, itertools.cycle(range(0, size - BLOCK + 1, BLOCK)), ReadShape(READERS, BLOCK))
    try:
        began, before = time.perf_counter(), reading.bytes_read
        beside = _repeated(lambda: projection(rows), seconds)
        bandwidth = (reading.bytes_read - before) / (time.perf_counter() - began)
    finally:
        reading.stop()
    return max(0.0, 1 - alone / beside) / bandwidth if bandwidth else 0.0


def _repeated(work: Callable[[], object], seconds: float) -> float:
    """Mean seconds of `work`, repeated for so long, after one call that is not counted."""
    work()
    began = now = time.perf_counter()
    count = 0
    while now < began + seconds:
        work()
        count += 1
        now = time.perf_counter()
    return (now - began) / count


def best_bandwidth(file: DirectFile, size: int, rounds: int = 2) -> float:
    """Bytes per second: of the shapes' best rounds, the best; 0 where the file is too small to tell.

    `size`: of the file, of which each round reads at most 512 MiB.
    """
    usable = min(size, 512 * MIB) // BLOCK * BLOCK
    if not usable:
        return 0.0
    return max(read_bandwidth(file, shape, 0, usable) for _ in range(rounds) for shape in READ_SHAPES)


def compute_seconds(config: ModelConfig, rows: Sequence[int] = ROWS, repeats: int = 3) -> dict[int, float]:
    """Seconds of a pass of so many rows over all layers and the output projection, with weights in memory.

    Made with weights that say nothing, as many as it takes to find none of them in a cache.
    """
    layout = BlobLayout.of(config, config.num_hidden_layers // 2)
    count = min(config.num_hidden_layers, math.ceil(SPILL / layout.size))
    small = replace(config, num_hidden_layers=count, vocab_size=16)
    memory = [[_filled(size).tensor for size in layout.sizes] for _ in range(count)]
    model = Transformer(
        config=small,
        embedding=torch.zeros(16, config.hidden_size),
        layers=[FusedLayer(layout.layer(pieces)) for pieces in memory],
        norm=torch.ones(config.hidden_size),
        head=_projection(dense_shape(16, config.hidden_size)),
        rope=rope_table(small, 2 * PAST),
        dtype=torch.float32,
    )
    head = _projection(dense_shape(min(HEAD_OUTPUTS, config.vocab_size), config.hidden_size))
    return {
        number: _pass_seconds(model, number, repeats) * config.num_hidden_layers / count
        + _timed(lambda number=number: head(torch.zeros(number, config.hidden_size)), repeats)
        * (config.vocab_size / head.out_features)
        for number in rows
    }


def interpolated(seconds: Mapping[int, float]) -> Callable[[int], float]:
    """Seconds for any number of rows, from those that were timed; beyond them in proportion to the last."""
    known = sorted(seconds)

    def at(rows: int) -> float:
        if rows > known[-1]:
            return seconds[known[-1]] * rows / known[-1]
        return float(np.interp(rows, known, [seconds[each] for each in known]))

    return at


def _filled(size: int) -> Buffer:
    memory = Buffer(size)
    memory.tensor.fill_(FILLING)
    return memory


def _projection(shape: Shape) -> PackedLinear:
    return PackedLinear(shape, NativeWeights(shape, _filled(block_bytes(shape)).tensor))


def _pass_seconds(model: Transformer, rows: int, repeats: int) -> float:
    cache = model.new_cache(PAST + rows)
    cache.append(range(-1, PAST - 1))
    cache.commit(range(PAST))

    def one_pass() -> None:
        model.forward([0] * rows, [-1] * rows, cache, slice(0, 0))
        cache.discard()

    return _timed(one_pass, repeats)


def _timed(work: Callable[[], object], repeats: int) -> float:
    """Median seconds, after one call that is not counted."""
    work()
    times: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
