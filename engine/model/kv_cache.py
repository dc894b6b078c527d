"""The keys and values of a token sequence, committed prefix first, then the rows of passes not yet decided on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.model.config import ModelConfig


class LayerCache(Protocol):
    """Keys and values of one layer, in whatever order its kernels read them."""

    @property
    def device(self) -> torch.device:
        """Where they are."""
        ...

    def move(self, sources: Tensor, target: int) -> None:
        """Let slots `sources`, ascending and none before its target, become the slots from `target` on.

        `sources`: int32 on this device.
        """
        ...


@dataclass(frozen=True, slots=True)
class PlainCache:
    """Keys and values as torch reads them: [keys|values, kv_heads, capacity, head_dim]; touched only as it fills."""

    data: Tensor

    @classmethod
    def empty(cls, config: ModelConfig, capacity: int, dtype: torch.dtype, device: torch.device) -> PlainCache:
        """Return a cache with nothing in it."""
        return cls(torch.empty((2, config.num_key_value_heads, capacity, config.head_dim), dtype=dtype, device=device))

    @property
    def device(self) -> torch.device:
        """See LayerCache."""
        return self.data.device

    def move(self, sources: Tensor, target: int) -> None:
        """See LayerCache."""
        self.data[:, :, target : target + len(sources)] = self.data[:, :, sources]


class KVCache:
    """The keys and values of every layer, for `capacity` positions, and what each slot stands for.

    Slots [0, length) hold committed positions. The slots after them hold uncommitted rows: `parents[i]` is the row that
    row i continues, or -1 for the last committed position. The cache advances only by `commit`; cancelling is not
    committing, so there is nothing to undo.
    """

    def __init__(self, layers: Sequence[LayerCache], capacity: int) -> None:
        """Use empty caches, one per layer, all on one device."""
        self.layers = layers
        self.capacity = capacity
        self.length = 0
        self.parents: list[int] = []
        self.depths: list[int] = []

    def append(self, parents: Sequence[int]) -> int:
        """Reserve uncommitted rows and return the index of the first.

        Raises TreelineError when there is no room, ValueError for a parent that is not an earlier row.
        """
        first = len(self.parents)
        if self.length + first + len(parents) > self.capacity:
            raise TreelineError(
                f"the KV cache holds {self.capacity} positions: ask for fewer tokens or a shorter prompt"
            )
        if not all(-1 <= parent < row for row, parent in enumerate(parents, first)):
            raise ValueError(f"rows from {first} on have parents {list(parents)}: each must be an earlier row or -1")
        for parent in parents:
            self.depths.append(0 if parent < 0 else self.depths[parent] + 1)
            self.parents.append(parent)
        return first

    def commit(self, rows: Sequence[int]) -> None:
        """Keep the path `rows` (each the parent of the next, the first without parent); forget every other row.

        Raises ValueError, with nothing changed, when `rows` is no such path.
        """
        previous = -1
        for row in rows:
            if not previous < row < len(self.parents) or self.parents[row] != previous:
                raise ValueError(f"row {row} does not continue row {previous}")
            previous = row
        in_place = 0
        while in_place < len(rows) and rows[in_place] == in_place:
            in_place += 1
        if in_place < len(rows):
            moved = [self.length + row for row in rows[in_place:]]
            sources = torch.tensor(moved, dtype=torch.int32, device=self.layers[0].device)
            for layer in self.layers:
                layer.move(sources, self.length + in_place)
        self.length += len(rows)
        self.discard()

    def discard(self) -> None:
        """Forget all uncommitted rows."""
        self.parents.clear()
        self.depths.clear()

    def truncate(self, length: int) -> None:
        """Forget committed positions from `length` on, and all uncommitted rows."""
        self.length = min(self.length, length)
        self.discard()

    def ancestors(self, first: int) -> Tensor:
        """Return which uncommitted rows each row from `first` on sees, itself included: bool [rows - first, rows]."""
        count = len(self.parents)
        seen = torch.zeros(count, count, dtype=torch.bool)
        chain = 0
        while chain < count and self.parents[chain] == chain - 1:
            chain += 1
        seen[:chain, :chain] = torch.ones(chain, chain, dtype=torch.bool).tril()
        for row in range(chain, count):
            if self.parents[row] >= 0:
                seen[row] = seen[self.parents[row]]
            seen[row, row] = True
        return seen[first:]
