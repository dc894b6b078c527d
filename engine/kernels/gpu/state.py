"""One pass as the GPU kernels see it: numbers in device memory, so that one recorded graph serves all lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SCALARS = 4  # past, straight, start, count


@dataclass(frozen=True, slots=True)
class PassRows:
    """The rows of a pass, on the host.

    `past` committed positions; new rows go to the slots from `start` on. A row sees its positions below `straight` in
    the slots of the same number; from there on `table` has the slots of its ancestors and its own, in their order.
    """

    past: int
    straight: int
    start: int
    positions: Sequence[int]
    table: Sequence[Sequence[int]]

    @classmethod
    def of(cls, past: int, first: int, parents: Sequence[int], positions: Sequence[int]) -> PassRows:
        """`parents` of all uncommitted rows (-1: the last committed position), of which `first` are in the cache."""
        shared = _shared(parents)
        lists: list[list[int]] = [[] for _ in range(shared)]
        for row in range(shared, len(parents)):
            above = lists[parents[row]] if parents[row] >= shared else []
            lists.append([*above, past + row])
        return cls(past, past + shared, past + first, positions, lists[first:])

    @property
    def count(self) -> int:
        """New rows."""
        return len(self.positions)

    @property
    def end(self) -> int:
        """Slots that are in use after this pass."""
        return self.start + self.count

    @property
    def width(self) -> int:
        """Columns that the table needs."""
        return max((len(slots) for slots in self.table), default=0)

    def packed(self, rows: int, width: int) -> Tensor:
        """Return int32 [4 + rows + rows * width] on the host: scalars, positions and table, padded with zeros."""
        buffer = np.zeros(SCALARS + rows * (1 + width), np.int32)
        buffer[:SCALARS] = self.past, self.straight, self.start, self.count
        buffer[SCALARS : SCALARS + self.count] = self.positions
        table = buffer[SCALARS + rows :].reshape(rows, width)
        for row, slots in enumerate(self.table):
            table[row, : len(slots)] = slots
        return torch.from_numpy(buffer)  # pyright: ignore[reportUnknownMemberType]

    def on(self, device: torch.device) -> PassState:
        """Return the same on `device`, for this pass alone."""
        width = max(1, self.width)
        return PassState(self.packed(self.count, width).to(device), self.count, width, self.past)


@dataclass(frozen=True, slots=True)
class PassState:
    """PassRows in device memory: `buffer` as `PassRows.packed` has it, for `rows` rows of which `count` are real.

    `most_past`: `past` is no larger, whatever is written into the buffer.
    """

    buffer: Tensor
    rows: int
    width: int
    most_past: int

    @property
    def scalars(self) -> Tensor:
        """Int32: past, straight, start, count."""
        return self.buffer

    @property
    def positions(self) -> Tensor:
        """Int32 [rows]."""
        return self.buffer[SCALARS:]

    @property
    def table(self) -> Tensor:
        """Int32 [rows, width]."""
        return self.buffer[SCALARS + self.rows :]


def _shared(parents: Sequence[int]) -> int:
    """Return how many of the first uncommitted rows form a chain that every later row continues."""
    chain = 0
    while chain < len(parents) and parents[chain] == chain - 1:
        chain += 1
    for row in range(chain, len(parents)):
        if parents[row] < chain:
            chain = parents[row] + 1
    return chain
