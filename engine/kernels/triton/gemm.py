"""Matrix products of few rows with a large weight, which is read once: 4-bit or dense.

Every kernel leaves one float32 partial sum per split of K, `out` [splits, M, N]; whoever reads it adds the splits in
order. Nothing is added atomically, and the order of the sums within a row depends on K and the split alone: not on
the other rows, nor on how large the tiles are.
"""

# pyright: basic
# A kernel's parameters are pointers and numbers of Triton's own types, which strict checking knows nothing of.

from __future__ import annotations

import triton
from triton import language as tl

from engine.kernels.gpu.layout import BLOCK_INPUTS
from engine.kernels.triton import kernel

LANES = tl.constexpr(BLOCK_INPUTS // 8)
BLOCK = tl.constexpr(BLOCK_INPUTS)
MAGIC = tl.constexpr(0x4B000000)  # the float32 2^23: its last bits count ones


@triton.jit
def nibbles(words: tl.tensor, shift: tl.tensor, zero: tl.tensor) -> tl.tensor:
    """Float32 (words >> shift) % 16 - zero without an integer conversion, which GPUs are slow at; exact."""
    counted = ((words >> shift) & 15) | MAGIC
    return counted.to(tl.float32, bitcast=True) - (8388608.0 + zero.to(tl.float32))


@triton.jit
def group_terms(
    zeros: tl.tensor, scales: tl.tensor, group: tl.tensor, n: tl.tensor, columns: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Zero points int32 and scales float32 of `columns` in a group; both come in words, which can be loaded ahead."""
    inside = columns < n
    zero = (tl.load(zeros + n * (group // 8) + columns, inside, 0) >> (group % 8 * 4)) & 15
    pair = tl.load(scales + n * (group // 2) + columns, inside, 0) >> (group % 2 * 16)
    return zero, pair.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@kernel("m", "blocks_per_split")
def int4_product(
    x: tl.tensor,  # [M, K] float16 or bfloat16
    words: tl.tensor,  # int32 [ceil(K / 256) * 32, N]
    zeros: tl.tensor,  # int32 [ceil(groups / 8), N]: nibble i of word j is the zero point of group 8 j + i
    scales: tl.tensor,  # int32 [groups / 2, N]: the float16 scales of two groups, the first in the low half
    out: tl.tensor,  # float32 [splits, M, N]
    m: tl.tensor,
    n: tl.tensor,
    k: tl.tensor,
    blocks_per_split: tl.tensor,
    GROUP: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Program (row tile, column tile, split)."""
    rows = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    columns = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    split = tl.program_id(2)
    inside = columns < n
    lane = tl.arange(0, LANES)
    total = tl.zeros([TILE_M, TILE_N], tl.float32)
    first = split * blocks_per_split
    last = tl.minimum(first + blocks_per_split, tl.cdiv(k, BLOCK))
    # Named here, the stages hold for the loads of scales too, which feed no product.
    for block in tl.range(first, last, num_stages=STAGES):
        word = tl.load(words + (lane + block * LANES)[:, None] * n + columns[None, :], inside[None, :], 0)
        for part in tl.static_range(BLOCK // GROUP):
            group = block * (BLOCK // GROUP) + part
            zero, scale = group_terms(zeros, scales, group, n, columns)
            sums = tl.zeros([TILE_M, TILE_N], tl.float32)
            for plane in tl.static_range(part * (GROUP // LANES), (part + 1) * (GROUP // LANES)):
                inputs = lane + (block * BLOCK + plane * LANES)
                mask = (rows < m)[:, None] & (inputs < k)[None, :]
                a = tl.load(x + rows[:, None] * k + inputs[None, :], mask, 0)
                sums = tl.dot(a, nibbles(word, plane * 4, zero[None, :]).to(a.dtype), sums, input_precision="ieee")
            total += sums * scale[None, :]
    target = out + (split * m + rows).to(tl.int64)[:, None] * n + columns[None, :]
    tl.store(target, total, (rows < m)[:, None] & inside[None, :])


@kernel("m", "blocks_per_split")
def dense_product(
    x: tl.tensor,  # [M, K] float16 or bfloat16
    weight: tl.tensor,  # [N, K], the same
    out: tl.tensor,  # float32 [splits, M, N]
    m: tl.tensor,
    n: tl.tensor,
    k: tl.tensor,
    blocks_per_split: tl.tensor,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    STEP: tl.constexpr,  # inputs at a time; divides BLOCK
) -> None:
    """Program (row tile, column tile, split)."""
    rows = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    columns = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    split = tl.program_id(2)
    offset = tl.arange(0, STEP)
    total = tl.zeros([TILE_M, TILE_N], tl.float32)
    start = weight + columns.to(tl.int64)[None, :] * k
    last = tl.minimum((split + 1) * blocks_per_split * BLOCK, k)
    for begin in range(split * blocks_per_split * BLOCK, last, STEP):
        inputs = begin + offset
        a = tl.load(x + rows[:, None] * k + inputs[None, :], (rows < m)[:, None] & (inputs < k)[None, :], 0)
        b = tl.load(start + inputs[:, None], (inputs < k)[:, None] & (columns < n)[None, :], 0)
        total = tl.dot(a, b, total, input_precision="ieee")
    target = out + (split * m + rows).to(tl.int64)[:, None] * n + columns[None, :]
    tl.store(target, total, (rows < m)[:, None] & (columns < n)[None, :])


@kernel("begin")
def int4_expand(
    words: tl.tensor,
    zeros: tl.tensor,
    scales: tl.tensor,
    out: tl.tensor,  # float16 or bfloat16 [K, width]: columns [begin, begin + width) of the weight
    n: tl.tensor,
    k: tl.tensor,
    begin: tl.tensor,
    width: tl.tensor,
    GROUP: tl.constexpr,
    TILE_N: tl.constexpr,
) -> None:
    """Program (block of 256 inputs, column tile): the weights as they would be stored dense."""
    block = tl.program_id(0)
    local = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    columns = begin + local
    inside = local < width
    lane = tl.arange(0, LANES)
    word = tl.load(words + (lane + block * LANES)[:, None] * n + columns[None, :], inside[None, :], 0)
    for plane in tl.static_range(8):  # pyright: ignore[reportGeneralTypeIssues]
        group = block * (BLOCK // GROUP) + plane * LANES // GROUP
        zero, scale = group_terms(zeros, scales, group, n, columns)  # pyright: ignore[reportGeneralTypeIssues]
        value = nibbles(word, plane * 4, zero[None, :]) * scale[None, :]
        inputs = lane + (block * BLOCK + plane * LANES)
        target = out + inputs.to(tl.int64)[:, None] * width + local[None, :]
        tl.store(target, value.to(out.dtype.element_ty), (inputs < k)[:, None] & inside[None, :])
