"""How the products are cut into programs: by a rule for the sums' order, by measurement for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch

from engine.kernels.gpu.layout import BLOCK_INPUTS, cdiv
from engine.kernels.triton import OutOfResources

PROGRAMS_PER_PROCESSOR = 4
MOST_SPLITS = 16


def power_of_two(size: int) -> int:
    """The least power of two that is at least `size`."""
    return 1 << (size - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Split:
    """K is cut into `count` parts of `blocks` blocks each, the last perhaps smaller."""

    count: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """Size of a program's tile, and Triton's warps and pipeline stages for it."""

    rows: int
    columns: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Product:
    """What a choice of tiles depends on. `group` 0: a dense weight. `tall`: more than 16 rows."""

    outputs: int
    inputs: int
    group: int
    dtype: torch.dtype
    device: torch.device
    tall: bool


def split(outputs: int, inputs: int, device: torch.device) -> Split:
    """Cut K so that every multiprocessor has work. Not measured: it decides in which order a row's sums are added."""
    blocks = cdiv(inputs, BLOCK_INPUTS)
    wanted = cdiv(PROGRAMS_PER_PROCESSOR * processors(device) * 64, outputs)
    per_split = cdiv(blocks, min(wanted, MOST_SPLITS, blocks))
    return Split(cdiv(blocks, per_split), per_split)


@cache
def processors(device: torch.device) -> int:
    """Return the multiprocessors of a GPU; 1 for the CPU, where the kernels are interpreted."""
    if device.type != "cuda":
        return 1
    return cast(Any, torch.cuda).get_device_properties(device).multi_processor_count


def default_tiles(product: Product) -> Tiles:
    """Return the tiles that are used where nothing is measured."""
    return Tiles(32 if product.tall else 16, 64, 4, 3)


def candidates(product: Product) -> list[Tiles]:
    """Return the tiles worth timing; at most 32 rows, so that all of them use the same tensor-core instruction."""
    default = default_tiles(product)
    others = [
        Tiles(default.rows, columns, warps, stages)
        for columns, warps, stages in ((32, 2, 4), (64, 4, 4), (64, 2, 4), (128, 4, 3), (128, 8, 3))
    ]
    return [default, *others]


def fastest(product: Product, run: Callable[[Tiles], None]) -> Tiles:
    """Return the tiles with which `run`, one product with the next of the samples, takes the least time.

    Tiles that need more than the GPU has are passed over.
    """
    timed: list[tuple[float, int]] = []
    choices = candidates(product)
    for index, tiles in enumerate(choices):
        try:
            timed.append((milliseconds(lambda tiles=tiles: run(tiles)), index))
        except OutOfResources:
            continue
    return choices[min(timed)[1]] if timed else default_tiles(product)


def milliseconds(run: Callable[[], object], runs: int = 20, rounds: int = 5) -> float:
    """Return the median over `rounds` of the time of one of `runs` calls on the GPU, after a warm-up."""
    for _ in range(3):
        run()
    times: list[float] = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(runs):
            run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / runs)
    return sorted(times)[rounds // 2]
