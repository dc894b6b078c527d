"""Two single-threaded workers train faster than one worker with two threads; this is how they share gradients.

Each worker writes into its own row of a shared tensor; after a barrier everyone reads all rows in the same order, so
all replicas stay identical bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

import torch

_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """Shared buffer and barrier of ``workers`` processes; ``buffer`` float32 [workers, capacity]."""

    rank: int
    workers: int
    buffer: torch.Tensor
    barrier: Barrier

    def _wait(self) -> None:
        if self.workers > 1:
            self.barrier.wait(_TIMEOUT_S)

    def mean(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace every tensor, in place, by its mean over the workers."""
        if self.workers == 1:
            return
        spans = _spans(tensors)
        for tensor, (begin, end) in zip(tensors, spans, strict=True):
            self.buffer[self.rank, begin:end] = tensor.flatten()
        self._wait()
        for tensor, (begin, end) in zip(tensors, spans, strict=True):
            tensor.copy_(self.buffer[:, begin:end].mean(dim=0).view_as(tensor))
        self._wait()

    def share(self, tensors: Sequence[torch.Tensor], owners: Sequence[int]) -> None:
        """Replace every tensor, in place, by its owner's value."""
        if self.workers == 1:
            return
        spans = _spans(tensors)
        for tensor, owner, (begin, end) in zip(tensors, owners, spans, strict=True):
            if owner == self.rank:
                self.buffer[0, begin:end] = tensor.flatten()
        self._wait()
        for tensor, owner, (begin, end) in zip(tensors, owners, spans, strict=True):
            if owner != self.rank:
                tensor.copy_(self.buffer[0, begin:end].view_as(tensor))
        self._wait()


def _spans(tensors: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    begin = 0
    for tensor in tensors:
        spans.append((begin, begin + tensor.numel()))
        begin += tensor.numel()
    return spans
