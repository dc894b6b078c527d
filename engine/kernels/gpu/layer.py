"""One decoder layer on a GPU, in ten launches and without waiting for any of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from engine.kernels.gpu.linear import DenseLinear, Int4Linear
from engine.kernels.gpu.state import PassState
from engine.kernels.gpu.tune import SMALL_ROWS
from engine.kernels.layer import LayerShape
from engine.kernels.triton.attention import attend_prefix, attend_rest
from engine.kernels.triton.rows import add_norm, rotate_and_store, silu_and_multiply

GpuLinear = Int4Linear | DenseLinear

FIRST_SLOTS = 1024  # of a cache's memory, doubled when it is full
MOST_CHUNKS = 32  # of a full cache
SMALLEST_CHUNK = 256
TILE = 32  # positions that attention takes at a time
COLUMNS = 1024  # of a program of silu_and_multiply


class GpuCache:
    """Keys and values of one layer: [keys|values, kv_heads, allocated, head_dim]; grows up to `capacity` slots."""

    __slots__ = ("capacity", "data")

    def __init__(
        self, kv_heads: int, head_dim: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.capacity = -(-capacity // 64) * 64
        self.data = torch.empty(
            (2, kv_heads, min(FIRST_SLOTS, self.capacity), head_dim), dtype=dtype, device=device
        )

    @property
    def allocated(self) -> int:
        """Slots that there is memory for."""
        return self.data.shape[2]

    @property
    def chunk(self) -> int:
        """Positions that attention sums up by themselves: set by the capacity, so that sums stay as the cache grows."""
        return max(SMALLEST_CHUNK, triton.next_power_of_2(-(-self.capacity // MOST_CHUNKS)))

    def reserve(self, slots: int) -> None:
        """Have memory for `slots` slots; those written keep their contents. Raises ValueError above the capacity."""
        if slots > self.capacity:
            raise ValueError(f"cache of {self.capacity} slots for {slots} rows")
        if slots > self.allocated:
            size = min(self.capacity, max(2 * self.allocated, triton.next_power_of_2(slots)))
            grown = self.data.new_empty((*self.data.shape[:2], size, self.data.shape[3]))
            grown[:, :, : self.allocated] = self.data
            self.data = grown

    def move(self, sources: Sequence[int], target: int) -> None:
        """Let slots `sources`, ascending and none before its target, become the slots from `target` on."""
        slots = torch.tensor(sources, device=self.data.device)
        self.data[:, :, target : target + len(sources)] = self.data[:, :, slots]


@dataclass(frozen=True, slots=True)
class GpuWeights:
    """Weights of a decoder layer. `qkv` and `gate_up` are joined layers; norms are vectors [hidden_size]."""

    qkv: GpuLinear
    output: GpuLinear
    gate_up: GpuLinear
    down: GpuLinear
    input_norm: Tensor
    post_attention_norm: Tensor


class GpuLayer:
    """A decoder layer. With up to 64 rows, a row's result does not depend on the other rows (see Int4Linear)."""

    __slots__ = ("dtype", "rope", "shape", "weights")

    def __init__(self, shape: LayerShape, weights: GpuWeights, rope: Tensor) -> None:
        """`rope` float32 [2, positions, head_dim / 2], cos and sin, where the kernels run."""
        self.shape, self.weights, self.rope, self.dtype = shape, weights, rope, weights.qkv.dtype

    def empty_cache(self, capacity: int) -> GpuCache:
        """Return a cache for this layer."""
        shape = self.shape
        return GpuCache(shape.num_key_value_heads, shape.head_dim, capacity, self.dtype, self.rope.device)

    def __call__(self, hidden: Tensor, state: PassState, cache: GpuCache) -> None:
        """Update hidden float32 [rows, hidden_size] in place, and write keys and values of the rows into `cache`."""
        weights, eps = self.weights, self.shape.rms_norm_eps
        x = normed(hidden, weights.input_norm, eps, self.dtype)
        queries = self._rotated(weights.qkv.parts(x), state, cache)
        parts = weights.output.parts(self._attention(queries, state, cache))
        x = normed(hidden, weights.post_attention_norm, eps, self.dtype, parts, weights.output.bias)
        parts = weights.down.parts(self._gated(weights.gate_up.parts(x)))
        normed(hidden, None, eps, self.dtype, parts, weights.down.bias)

    def _rotated(self, parts: Tensor, state: PassState, cache: GpuCache) -> Tensor:
        """Return rotated queries [rows, heads * head_dim]; keys and values go into the cache."""
        shape = self.shape
        heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        rows = parts.shape[1]
        queries = torch.empty(rows, heads * shape.head_dim, dtype=self.dtype, device=parts.device)
        rotate_and_store[(rows, heads + 2 * kv_heads)](
            parts,
            self.weights.qkv.bias,
            self.rope,
            state.scalars,
            state.positions,
            queries,
            cache.data,
            rows,
            len(parts),
            self.rope.shape[1],
            cache.allocated,
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_DIM=shape.head_dim,
            SIZE=triton.next_power_of_2(shape.head_dim // 2),
            num_warps=1,
        )
        return queries

    def _attention(self, queries: Tensor, state: PassState, cache: GpuCache) -> Tensor:
        """Return what each row gathers, [rows, heads * head_dim]."""
        shape, rows = self.shape, len(queries)
        heads, kv_heads, head_dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        group = heads // kv_heads
        merged = rows > SMALL_ROWS
        chunks = state.most_past // cache.chunk
        kept = max(1, min(chunks, 1) if merged else chunks)
        partial = torch.empty(kept, rows, heads, head_dim, dtype=torch.float32, device=queries.device)
        summary = torch.empty(kept, rows, heads, 2, dtype=torch.float32, device=queries.device)
        out = torch.empty_like(queries)
        constants = {
            "HEADS": heads,
            "KV_HEADS": kv_heads,
            "HEAD_DIM": head_dim,
            "SIZE": max(16, triton.next_power_of_2(head_dim)),
            "CHUNK": cache.chunk,
            "TILE": TILE,
            "MERGED": merged,
        }
        scale = math.log2(math.e) / math.sqrt(head_dim)
        if chunks:
            # A warp for each 16 rows: its sums are then made in one order, however many rows there are. Tiles of 64
            # would use another tensor-core instruction on some GPUs.
            tile = 64 if merged else 32 if rows * group > 16 else 16
            grid = (1 if merged else chunks, triton.cdiv(rows * group, tile), kv_heads)
            attend_prefix[grid](
                queries,
                cache.data,
                state.scalars,
                partial,
                summary,
                rows,
                cache.allocated,
                scale,
                ROWS=tile,
                num_warps=tile // 16,
                **constants,
            )
        attend_rest[(rows, kv_heads)](
            queries,
            cache.data,
            state.scalars,
            state.positions,
            state.table,
            partial,
            summary,
            out,
            rows,
            cache.allocated,
            state.width,
            scale,
            ROWS=max(16, triton.next_power_of_2(group)),
            num_warps=max(16, triton.next_power_of_2(group)) // 16,
            **constants,
        )
        return out

    def _gated(self, parts: Tensor) -> Tensor:
        """silu(gate) * up: [rows, intermediate_size]."""
        rows, width = parts.shape[1], self.shape.intermediate_size
        out = torch.empty(rows, width, dtype=self.dtype, device=parts.device)
        silu_and_multiply[(rows, triton.cdiv(width, COLUMNS))](
            parts, self.weights.gate_up.bias, out, rows, width, len(parts), TILE=COLUMNS
        )
        return out


class GpuHead:
    """Final norm and output projection."""

    __slots__ = ("linear",)

    def __init__(self, linear: DenseLinear) -> None:
        self.linear = linear

    def __call__(self, hidden: Tensor, norm: Tensor, eps: float) -> Tensor:
        """Logits float32 [rows, outputs] of hidden float32 [rows, hidden_size]."""
        return self.linear(normed(hidden.contiguous(), norm, eps, self.linear.dtype))


def normed(
    hidden: Tensor,
    weight: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    parts: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Add `parts` [splits, rows, width] and `bias` to hidden float32 [rows, width]; return its RMSNorm times `weight`.

    Without a weight nothing but the addition is done, and what is returned is not written.
    """
    rows, width = hidden.shape
    out = torch.empty(rows, width, dtype=dtype, device=hidden.device) if weight is not None else hidden
    if rows:
        splits = 0 if parts is None else len(parts)
        size = triton.next_power_of_2(width)
        warps = min(16, max(1, size // 512))
        add_norm[(rows,)](hidden, parts, bias, weight, out, rows, width, splits, eps, SIZE=size, num_warps=warps)
    return out
