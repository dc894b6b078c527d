"""Passes of few rows, recorded once as CUDA graphs: a replay costs one launch instead of ten a layer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from engine.kernels.gpu.cache import GpuCache
from engine.kernels.gpu.layer import GpuHead, GpuLayer
from engine.kernels.gpu.state import SCALARS, PassRows, PassState

RECORDED_ROWS = (1, 2, 4, 8, 16, 32)  # a pass is padded to the next of these
WIDTH = 64  # of the recorded passes' tables

Replay = Callable[[], None]
Record = Callable[[Callable[[], None]], Replay]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stack:
    """All that a pass goes through: layers, final norm, output projection."""

    layers: Sequence[GpuLayer]
    norm: Tensor
    eps: float
    head: GpuHead

    def __call__(self, hidden: Tensor, state: PassState, caches: Sequence[GpuCache]) -> Tensor:
        """Logits float32 [rows, outputs]; hidden float32 [rows, hidden_size] is overwritten."""
        for layer, cache in zip(self.layers, caches, strict=True):
            layer(hidden, state, cache)
        return self.head(hidden, self.norm, self.eps)


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recorded pass: where it reads, where it writes, and how to run it."""

    hidden: Tensor
    state: PassState
    logits: list[Tensor]
    replay: Replay

    def run(self, hidden: Tensor, rows: PassRows) -> Tensor:
        self.hidden[: rows.count].copy_(hidden)
        self.state.buffer.copy_(rows.packed(self.state.rows, WIDTH))
        self.replay()
        return self.logits[0][: rows.count].clone()


@dataclass(frozen=True, slots=True)
class _Bound:
    """Recordings by number of rows, good for as long as the caches, of which this is the first one's, do not grow."""

    memory: Tensor
    by_rows: dict[int, _Recording]


class Recordings:
    """Runs passes of up to 32 rows from recordings, which are made when a number of rows is first met.

    A recording is bound to the memory of the caches that it was made with.
    """

    def __init__(self, stack: Stack, record: Record | None = None) -> None:
        """`record` runs a function while recording what it launches; by default as a CUDA graph."""
        self._stack = stack
        self._record = record or _graph
        self._bound: WeakKeyDictionary[GpuCache, _Bound] = WeakKeyDictionary()  # by the first layer's cache
        self._refused = False

    def run(self, hidden: Tensor, rows: PassRows, caches: Sequence[Any]) -> Tensor | None:
        """Return logits float32 [rows, outputs] of hidden [rows, hidden_size], or None: the pass is not to be recorded.

        `caches` are the layers' own (GpuCache).

        Passes of more than 32 rows are not, those of deep trees, and none once a recording has failed.
        """
        size = next((size for size in RECORDED_ROWS if size >= rows.count), None)
        if size is None or rows.count == 0 or rows.width > WIDTH or self._refused:
            return None
        for cache in caches:
            cache.reserve(rows.end)
        bound = self._bound.get(caches[0])
        if bound is None or bound.memory is not caches[0].data:
            bound = self._bound[caches[0]] = _Bound(caches[0].data, {})
        if size not in bound.by_rows:
            try:
                bound.by_rows[size] = self._make(size, caches)
            except RuntimeError as error:
                logger.warning("passes are not recorded as CUDA graphs, which slows small models down: %s", error)
                self._refused = True
                return None
        return bound.by_rows[size].run(hidden, rows)

    def _make(self, size: int, caches: Sequence[GpuCache]) -> _Recording:
        device = self._stack.norm.device
        width = self._stack.norm.shape[0]
        hidden = torch.zeros(size, width, dtype=torch.float32, device=device)
        buffer = torch.zeros(SCALARS + size * (1 + WIDTH), dtype=torch.int32, device=device)
        state = PassState(buffer, size, WIDTH, caches[0].allocated)
        logits: list[Tensor] = []

        def body() -> None:
            logits[:] = [self._stack(hidden.clone(), state, caches)]

        body()  # compiles the kernels and times their tiles; the state says that there are no rows
        return _Recording(hidden, state, logits, self._record(body))


def _graph(run: Callable[[], None]) -> Replay:
    graph = torch.cuda.CUDAGraph()
    # Other threads copy weights and compute meanwhile; that is none of this recording's business.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay
