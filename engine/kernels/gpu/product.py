"""Launching the products of few rows, in tiles that suit the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import cycle

import torch
from torch import Tensor

from engine.kernels.gpu.layout import BLOCK_INPUTS, SAMPLE_BYTES, cdiv
from engine.kernels.gpu.tune import Product, Tiles, default_tiles, fastest, split
from engine.kernels.triton.gemm import dense_product, int4_product

SMALL_ROWS = 64  # up to here a weight is read once, as it is; above, it is worth expanding
DENSE_STEP = 64

Packed = tuple[Tensor, Tensor, Tensor]  # words, zeros, scales as triton/gemm.py describes them


def multiply_int4(x: Tensor, packed: Packed, product: Product, tiles: Tiles) -> Tensor:
    """Launch the 4-bit product of x [M, K]: float32 [splits, M, N]."""
    cut = split(product.outputs, product.inputs, x.device)
    out = torch.empty(cut.count, len(x), product.outputs, dtype=torch.float32, device=x.device)
    int4_product[_grid(len(x), product, cut.count, tiles)](
        x,
        *packed,
        out,
        len(x),
        product.outputs,
        product.inputs,
        cut.blocks,
        GROUP=product.group,
        TILE_M=tiles.rows,
        TILE_N=tiles.columns,
        STAGES=tiles.stages,
        num_warps=tiles.warps,
    )
    return out


def multiply_dense(x: Tensor, weight: Tensor, product: Product, tiles: Tiles) -> Tensor:
    """Launch the dense product of x [M, K] with weight [N, K]: float32 [splits, M, N]."""
    cut = split(product.outputs, product.inputs, x.device)
    out = torch.empty(cut.count, len(x), product.outputs, dtype=torch.float32, device=x.device)
    dense_product[_grid(len(x), product, cut.count, tiles)](
        x,
        weight,
        out,
        len(x),
        product.outputs,
        product.inputs,
        cut.blocks,
        TILE_M=tiles.rows,
        TILE_N=tiles.columns,
        STEP=DENSE_STEP,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return out


@cache
def tiles(product: Product) -> Tiles:
    """Return the tiles for `product`: on a GPU the fastest, timed at the first call in this process."""
    if product.device.type != "cuda":
        return default_tiles(product)
    # Numbers from torch's common generator may not be drawn while another thread records a graph.
    generator = torch.Generator(product.device)
    x = _random(32 if product.tall else 1, product.inputs, product, generator)
    row = product.inputs // 2 if product.group else 2 * product.inputs  # bytes of an output's weights
    part = replace(product, outputs=min(product.outputs, SAMPLE_BYTES // row // 128 * 128))
    samples = cycle([_sample(part, generator) for _ in range(max(1, SAMPLE_BYTES // (row * part.outputs)))])

    def run(tiles: Tiles) -> None:
        next(samples)(x, tiles)

    return fastest(product, run)


def _sample(product: Product, generator: torch.Generator) -> Callable[[Tensor, Tiles], Tensor]:
    """Return what multiplies by a random weight of the shape of `product`."""
    n, k, device = product.outputs, product.inputs, product.device
    if not product.group:
        weight = _random(n, k, product, generator)
        return lambda x, tiles: multiply_dense(x, weight, product, tiles)
    blocks = cdiv(k, BLOCK_INPUTS)
    groups = blocks * BLOCK_INPUTS // product.group

    def words(rows: int) -> Tensor:
        return torch.randint(-(2**31), 2**31 - 1, (rows, n), generator=generator, dtype=torch.int32, device=device)

    scales = torch.full((groups // 2, n), 0x21002100, dtype=torch.int32, device=device)  # about 0.01, twice
    packed = (words(blocks * 32), words(cdiv(groups, 8)), scales)
    return lambda x, tiles: multiply_int4(x, packed, product, tiles)


def _random(rows: int, columns: int, product: Product, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=product.dtype, device=product.device)


def _grid(rows: int, product: Product, splits: int, tiles: Tiles) -> tuple[int, int, int]:
    # Tiles of rows come first: programs that read the same weights run at the same time.
    return cdiv(rows, tiles.rows), cdiv(product.outputs, tiles.columns), splits
