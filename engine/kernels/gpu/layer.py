"""One decoder layer on a GPU, in ten launches and without waiting for any of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.gpu.attention import tree_attention
from engine.kernels.gpu.cache import GpuCache
from engine.kernels.gpu.layout import cdiv
from engine.kernels.gpu.linear import DenseLinear, Int4Linear
from engine.kernels.gpu.product import SMALL_ROWS
from engine.kernels.gpu.state import PassState
from engine.kernels.gpu.tune import power_of_two
from engine.kernels.layer import LayerShape
from engine.kernels.triton.rows import add_norm, rotate_and_store, silu_and_multiply

GpuLinear = Int4Linear | DenseLinear

COLUMNS = 1024  # of a program of silu_and_multiply


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
        mixed = tree_attention(queries, state, cache).view(len(hidden), -1)
        parts = weights.output.parts(mixed)
        x = normed(hidden, weights.post_attention_norm, eps, self.dtype, parts, weights.output.bias)
        parts = weights.down.parts(self._gated(weights.gate_up.parts(x)))
        normed(hidden, None, eps, self.dtype, parts, weights.down.bias)

    def _rotated(self, parts: Tensor, state: PassState, cache: GpuCache) -> Tensor:
        """Return rotated queries [rows, heads, head_dim]; keys and values go into the cache."""
        shape = self.shape
        heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        rows = parts.shape[1]
        queries = torch.empty(rows, heads, shape.head_dim, dtype=self.dtype, device=parts.device)
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
            SIZE=power_of_two(shape.head_dim // 2),
            num_warps=1,
        )
        return queries

    def _gated(self, parts: Tensor) -> Tensor:
        """silu(gate) * up: [rows, intermediate_size]."""
        rows, width = parts.shape[1], self.shape.intermediate_size
        out = torch.empty(rows, width, dtype=self.dtype, device=parts.device)
        silu_and_multiply[(rows, cdiv(width, COLUMNS))](
            parts, self.weights.gate_up.bias, out, rows, width, len(parts), TILE=COLUMNS
        )
        return out


class GpuHead:
    """Final norm and output projection."""

    __slots__ = ("linear",)

    def __init__(self, linear: DenseLinear) -> None:
        self.linear = linear

    def __call__(self, x: Tensor, norm: Tensor, eps: float) -> Tensor:
        """Logits float32 [rows, outputs] of x float32 [rows, hidden_size].

        A row's are the same bits in any number of rows, which `linear` promises for few: it gets few at a time.
        """
        x = normed(x.contiguous(), norm, eps, self.linear.dtype)
        if len(x) <= SMALL_ROWS:
            return self.linear(x)
        logits = torch.empty(len(x), len(self.linear.weight), dtype=torch.float32, device=x.device)
        for begin in range(0, len(x), SMALL_ROWS):
            logits[begin : begin + SMALL_ROWS] = self.linear(x[begin : begin + SMALL_ROWS])
        return logits


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
        size = power_of_two(width)
        warps = min(16, max(1, size // 512))
        add_norm[(rows,)](hidden, parts, bias, weight, out, rows, width, splits, eps, SIZE=size, num_warps=warps)
    return out
