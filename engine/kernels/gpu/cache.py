"""Keys and values of a layer in a GPU's memory."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.device import memory_explained
from engine.kernels.gpu.layout import cdiv
from engine.kernels.gpu.tune import power_of_two

FIRST_SLOTS = 1024  # of a cache's memory, doubled when it is full
MOST_CHUNKS = 32  # of a full cache
SMALLEST_CHUNK = 256


class GpuCache:
    """Keys and values of one layer: [keys|values, kv_heads, allocated, head_dim]; grows up to `capacity` slots."""

    __slots__ = ("__weakref__", "capacity", "data")

    def __init__(self, kv_heads: int, head_dim: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.capacity = cdiv(capacity, 64) * 64
        self.data = torch.empty((2, kv_heads, min(FIRST_SLOTS, self.capacity), head_dim), dtype=dtype, device=device)

    @property
    def allocated(self) -> int:
        """Slots that there is memory for."""
        return self.data.shape[2]

    @property
    def chunk(self) -> int:
        """Positions that attention sums up by themselves: set by the capacity, so that sums stay as the cache grows."""
        return max(SMALLEST_CHUNK, power_of_two(cdiv(self.capacity, MOST_CHUNKS)))

    def reserve(self, slots: int) -> None:
        """Have memory for `slots` slots; those written keep their contents. Raises ValueError above the capacity."""
        if slots > self.capacity:
            raise ValueError(f"cache of {self.capacity} slots for {slots} rows")
        if slots > self.allocated:
            size = min(self.capacity, max(2 * self.allocated, power_of_two(slots)))
            with memory_explained(f"a KV cache of {size} positions did not fit"):
                grown = self.data.new_empty((*self.data.shape[:2], size, self.data.shape[3]))
            grown[:, :, : self.allocated] = self.data
            self.data = grown

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.data.device

    def move(self, sources: Tensor, target: int) -> None:
        """Let slots `sources`, ascending and none before its target, become the slots from `target` on.

        `sources`: int32 on this device.
        """
        self.data[:, :, target : target + len(sources)] = self.data[:, :, sources]
