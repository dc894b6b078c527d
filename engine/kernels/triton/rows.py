"""What happens to rows between two matrix products. Partial sums [splits, M, N] are added in order as they are read."""

# pyright: basic
# A kernel's parameters are pointers and numbers of Triton's own types, which strict checking knows nothing of.

from __future__ import annotations

import triton
from triton import language as tl

from engine.kernels.triton import kernel


@triton.jit
def add_parts(
    parts: tl.tensor,
    stride: tl.tensor,
    splits: tl.tensor,
    at: tl.tensor,
    mask: tl.tensor,
    bias: tl.tensor,
    column: tl.tensor,
) -> tl.tensor:
    """Float32 sum of `parts` at offsets `at`, `splits` of them `stride` apart, plus bias where there is one."""
    total = tl.zeros(at.shape, tl.float32)
    for _ in range(splits):
        total += tl.load(parts + at, mask, 0).to(tl.float32)
        parts += stride
    if bias is not None:
        total += tl.load(bias + column, mask, 0).to(tl.float32)
    return total


@kernel("m", "splits")
def add_norm(
    hidden: tl.tensor,  # float32 [M, width], the residual stream; updated in place where there is something to add
    parts: tl.tensor,  # [splits, M, width], or None
    bias: tl.tensor,  # [width], or None
    weight: tl.tensor,  # [width], or None: no norm is wanted
    out: tl.tensor,  # float16 or bfloat16 [M, width], or None
    m: tl.tensor,
    width: tl.tensor,
    splits: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,  # a power of two, at least width
) -> None:
    """Program (row): hidden += sum of parts + bias; out = RMSNorm(hidden) * weight."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, SIZE)
    inside = column < width
    at = row * width + column
    x = tl.load(hidden + at, inside, 0)
    if parts is not None:
        x += add_parts(parts, m.to(tl.int64) * width, splits, at, inside, bias, column)
        tl.store(hidden + at, x, inside)
    if weight is not None:
        scale = tl.rsqrt(tl.sum(x * x, 0) / width + eps)
        normed = x * scale * tl.load(weight + column, inside, 0).to(tl.float32)
        tl.store(out + at, normed.to(out.dtype.element_ty), inside)


@kernel("m", "splits", "table")
def rotate_and_store(
    parts: tl.tensor,  # [splits, M, heads + 2 kv_heads, head_dim]: queries, keys, values
    bias: tl.tensor,  # [(heads + 2 kv_heads) * head_dim], or None
    rope: tl.tensor,  # float32 [2, table, head_dim / 2]: cos and sin
    state: tl.tensor,  # int32: PassState.scalars
    positions: tl.tensor,  # int32 [M]
    queries: tl.tensor,  # out: float16 or bfloat16 [M, heads, head_dim]
    cache: tl.tensor,  # out: [keys|values, kv_heads, capacity, head_dim]
    m: tl.tensor,
    splits: tl.tensor,
    table: tl.tensor,
    capacity: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SIZE: tl.constexpr,  # a power of two, at least HEAD_DIM / 2
) -> None:
    """Program (row, head): rotate queries and keys; write keys and values into the cache, at the row's slot."""
    row, head = tl.program_id(0), tl.program_id(1)
    start, count = tl.load(state + 2), tl.load(state + 3)
    if row >= count:
        return
    half: tl.constexpr = HEAD_DIM // 2
    i = tl.arange(0, SIZE)
    inside = i < half
    columns: tl.constexpr = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    column = head * HEAD_DIM + i
    at = row * columns + column
    stride = m.to(tl.int64) * columns
    first = add_parts(parts, stride, splits, at, inside, bias, column)
    second = add_parts(parts, stride, splits, at + half, inside, bias, column + half)
    if head < HEADS + KV_HEADS:
        angle = tl.load(positions + row).to(tl.int64) * half + i
        cos = tl.load(rope + angle, inside, 0)
        sin = tl.load(rope + table.to(tl.int64) * half + angle, inside, 0)
        first, second = first * cos - second * sin, second * cos + first * sin
    if head < HEADS:
        target = queries + (row * HEADS + head) * HEAD_DIM + i
    else:
        # Values follow the keys as further heads would.
        target = cache + ((head - HEADS).to(tl.int64) * capacity + start + row) * HEAD_DIM + i
    kind = queries.dtype.element_ty
    tl.store(target, first.to(kind), inside)
    tl.store(target + half, second.to(kind), inside)


@kernel("m", "splits")
def silu_and_multiply(
    parts: tl.tensor,  # [splits, M, 2 width]: gate and up
    bias: tl.tensor,  # [2 width], or None
    out: tl.tensor,  # float16 or bfloat16 [M, width]
    m: tl.tensor,
    width: tl.tensor,
    splits: tl.tensor,
    TILE: tl.constexpr,
) -> None:
    """Program (row, tile of columns): silu(gate) * up; in float16 no more than the greatest finite value."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < width
    stride = m.to(tl.int64) * 2 * width
    at = row * 2 * width + column
    gate = add_parts(parts, stride, splits, at, inside, bias, column)
    up = add_parts(parts, stride, splits, at + width, inside, bias, column + width)
    value = gate / (1 + tl.exp(-gate)) * up
    if out.dtype.element_ty == tl.float16:  # some models' values exceed it, and an infinite one would spoil the row
        value = tl.clamp(value, -65504.0, 65504.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + row * width + column, value.to(out.dtype.element_ty), inside)
