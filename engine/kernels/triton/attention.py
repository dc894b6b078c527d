"""Attention of the rows of a pass over a prefix that all see, and over each row's own ancestors.

A row sees a sequence of its own: position v of it lies in slot v while that is a slot that all rows share, else in the
slot of the row's ancestor (`table`). That sequence is cut into chunks of CHUNK positions, from 0 on, whatever the pass:
each chunk is attended to by itself, and the results are merged in order. So a row's sums are the same whether it
comes alone or in a tree.

The first kernel attends to whole chunks of the prefix, the second to what is left of each row's sequence.
"""

# pyright: basic
# A kernel's parameters are pointers and numbers of Triton's own types, which strict checking knows nothing of.

from __future__ import annotations

import triton
from triton import language as tl

from engine.kernels.triton import kernel


@triton.jit
def attend(
    q: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    scale: tl.tensor,
    valid: tl.tensor,
    best: tl.tensor,
    mass: tl.tensor,
    mixed: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Take more positions into the running softmax: largest score, sum of weights, weighted values.

    `q` [rows, dims], `key` [dims, positions], `value` [positions, dims]; `scale` holds log2(e), for powers of two.
    """
    scores = tl.dot(q, key, input_precision="ieee") * scale
    scores = tl.where(valid[None, :], scores, float("-inf"))
    top = tl.maximum(best, tl.max(scores, 1))
    weights = tl.exp2(scores - top[:, None])
    shrink = tl.exp2(best - top)
    mass = mass * shrink + tl.sum(weights, 1)
    mixed = tl.dot(weights.to(value.dtype), value, mixed * shrink[:, None], input_precision="ieee")
    return top, mass, mixed


@triton.jit
def merge(
    best: tl.tensor, mass: tl.tensor, mixed: tl.tensor, top: tl.tensor, more: tl.tensor, values: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Add a chunk (top, more, values) to what the chunks before it gave."""
    highest = tl.maximum(best, top)
    shrink, grow = tl.exp2(best - highest), tl.exp2(top - highest)
    mixed = mixed * shrink[:, None] + values * grow[:, None]
    return highest, mass * shrink + more * grow, mixed


@kernel("m")
def attend_prefix(
    queries: tl.tensor,  # [M, HEADS, HEAD_DIM]
    cache: tl.tensor,  # [keys|values, KV_HEADS, capacity, HEAD_DIM]
    state: tl.tensor,  # int32: PassState.scalars
    partial: tl.tensor,  # out: float32 [chunks, M, HEADS, HEAD_DIM]
    summary: tl.tensor,  # out: float32 [chunks, M, HEADS, 2]: largest score, sum of weights
    m: tl.tensor,
    capacity: tl.tensor,
    scale: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SIZE: tl.constexpr,  # a power of two, at least HEAD_DIM
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,  # positions at a time; divides CHUNK
    ROWS: tl.constexpr,  # of queries: the heads of a group are rows
    MERGED: tl.constexpr,  # all chunks in one program, which leaves one result
) -> None:
    """Program (chunk, tile of rows, key/value head)."""
    group: tl.constexpr = HEADS // KV_HEADS
    chunk, kv_head = tl.program_id(0), tl.program_id(2)
    chunks = tl.load(state) // CHUNK
    count = tl.load(state + 3) * group
    index = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    if (chunk >= chunks) | (tl.program_id(1) * ROWS >= count):
        return
    head = (index // group) * HEADS + kv_head * group + index % group  # among M * HEADS
    dim = tl.arange(0, SIZE)
    wanted = (index < count)[:, None] & (dim < HEAD_DIM)[None, :]
    at = head.to(tl.int64)[:, None] * HEAD_DIM + dim[None, :]
    q = tl.load(queries + at, wanted, 0)
    keys = cache + kv_head.to(tl.int64) * capacity * HEAD_DIM
    values = keys + KV_HEADS * capacity.to(tl.int64) * HEAD_DIM
    best = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, SIZE], tl.float32)
    last = chunks if MERGED else chunk + 1
    for each in range(chunk, last):
        top = tl.full([ROWS], float("-inf"), tl.float32)
        more = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, SIZE], tl.float32)
        for begin in range(each * CHUNK, (each + 1) * CHUNK, TILE):
            slot = begin + tl.arange(0, TILE)
            in_row = slot.to(tl.int64) * HEAD_DIM
            key = tl.load(keys + in_row[None, :] + dim[:, None], (dim < HEAD_DIM)[:, None], 0)
            value = tl.load(values + in_row[:, None] + dim[None, :], (dim < HEAD_DIM)[None, :], 0)
            top, more, sums = attend(q, key, value, scale, slot >= 0, top, more, sums)
        best, mass, mixed = merge(best, mass, mixed, top, more, sums)
    place = chunk.to(tl.int64) * m * HEADS
    tl.store(partial + place * HEAD_DIM + at, mixed, wanted)
    tl.store(summary + (place + head) * 2, best, index < count)
    tl.store(summary + (place + head) * 2 + 1, mass, index < count)


@kernel("m", "width")
def attend_rest(
    queries: tl.tensor,
    cache: tl.tensor,
    state: tl.tensor,
    positions: tl.tensor,  # int32 [M]
    table: tl.tensor,  # int32 [M, width]: slots of the ancestors, and the row's own, at positions from `straight` on
    partial: tl.tensor,
    summary: tl.tensor,
    out: tl.tensor,  # float16 or bfloat16 [M, HEADS, HEAD_DIM]
    m: tl.tensor,
    capacity: tl.tensor,
    width: tl.tensor,
    scale: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,  # a power of two, at least 16 and HEADS / KV_HEADS
    MERGED: tl.constexpr,
) -> None:
    """Program (row, key/value head): merge the prefix's chunks, go on from there, and divide by the sum of weights."""
    group: tl.constexpr = HEADS // KV_HEADS
    row, kv_head = tl.program_id(0), tl.program_id(1)
    if row >= tl.load(state + 3):
        return
    chunks, straight = tl.load(state) // CHUNK, tl.load(state + 1)
    length = tl.load(positions + row) + 1
    index, dim = tl.arange(0, ROWS), tl.arange(0, SIZE)
    wanted = (index < group)[:, None] & (dim < HEAD_DIM)[None, :]
    head = row * HEADS + kv_head * group + index
    at = head.to(tl.int64)[:, None] * HEAD_DIM + dim[None, :]
    q = tl.load(queries + at, wanted, 0)
    keys = cache + kv_head.to(tl.int64) * capacity * HEAD_DIM
    values = keys + KV_HEADS * capacity.to(tl.int64) * HEAD_DIM
    best = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, SIZE], tl.float32)
    stored = tl.minimum(chunks, 1) if MERGED else chunks
    stride = m.to(tl.int64) * HEADS
    for each in range(stored):
        place = stride * each
        top = tl.load(summary + (place + head) * 2, index < group, 0)
        more = tl.load(summary + (place + head) * 2 + 1, index < group, 1)
        sums = tl.load(partial + place * HEAD_DIM + at, wanted, 0)
        best, mass, mixed = merge(best, mass, mixed, top, more, sums)
    for chunk in range(chunks * CHUNK, length, CHUNK):
        top = tl.full([ROWS], float("-inf"), tl.float32)
        more = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, SIZE], tl.float32)
        end = tl.minimum(chunk + CHUNK, length)
        for begin in range(chunk, end, TILE):
            position = begin + tl.arange(0, TILE)
            valid = position < end
            own = tl.load(table + row * width + position - straight, valid & (position >= straight), 0)
            in_row = tl.where(position < straight, position, own).to(tl.int64) * HEAD_DIM
            key = tl.load(keys + in_row[None, :] + dim[:, None], valid[None, :] & (dim < HEAD_DIM)[:, None], 0)
            value = tl.load(values + in_row[:, None] + dim[None, :], valid[:, None] & (dim < HEAD_DIM)[None, :], 0)
            top, more, sums = attend(q, key, value, scale, valid, top, more, sums)
        best, mass, mixed = merge(best, mass, mixed, top, more, sums)
    result = mixed / mass[:, None]
    tl.store(out + at, result.to(out.dtype.element_ty), wanted)
