"""Attention of a pass's rows over a cache: one launch for the whole chunks of the prefix, one for the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.kernels.gpu.cache import GpuCache
from engine.kernels.gpu.product import SMALL_ROWS
from engine.kernels.gpu.state import PassState
from engine.kernels.gpu.tune import cdiv, power_of_two
from engine.kernels.triton.attention import attend_prefix, attend_rest

TILE = 32  # positions at a time
MATRIX_ROWS = 16  # what a tensor core takes at least


def tree_attention(queries: Tensor, state: PassState, cache: GpuCache) -> Tensor:
    """Return what each row gathers: [rows, heads, head_dim] of the type of `queries`, which has that shape.

    The rows' own keys and values are in the cache already. With up to 64 rows, a row's result is the same bits in a
    tree and alone: chunks are cut by position and merged in order, and a warp has 16 rows (heads of a group count).
    """
    rows, heads, head_dim = queries.shape
    kv_heads = cache.data.shape[1]
    group = heads // kv_heads
    merged = rows > SMALL_ROWS  # results of single chunks would take too much memory
    chunks = state.most_past // cache.chunk
    kept = max(1, min(chunks, 1) if merged else chunks)
    partial = torch.empty(kept, rows, heads, head_dim, dtype=torch.float32, device=queries.device)
    summary = torch.empty(kept, rows, heads, 2, dtype=torch.float32, device=queries.device)
    out = torch.empty_like(queries)
    scale = math.log2(math.e) / math.sqrt(head_dim)
    constants = {
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "SIZE": max(16, power_of_two(head_dim)),
        "CHUNK": cache.chunk,
        "TILE": TILE,
        "MERGED": merged,
    }
    if chunks:
        # Tiles of 64 would use another tensor-core instruction on some GPUs, with other sums.
        tile = 64 if merged else 32 if rows * group > MATRIX_ROWS else MATRIX_ROWS
        attend_prefix[(1 if merged else chunks, cdiv(rows * group, tile), kv_heads)](
            queries,
            cache.data,
            state.scalars,
            partial,
            summary,
            rows,
            cache.allocated,
            scale,
            ROWS=tile,
            num_warps=tile // MATRIX_ROWS,
            **constants,
        )
    tile = max(MATRIX_ROWS, power_of_two(group))
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
        ROWS=tile,
        num_warps=tile // MATRIX_ROWS,
        **constants,
    )
    return out
