"""Where tests run the GPU's kernels: on a GPU, or on the CPU in Triton's interpreter (tests/conftest.py)."""

from __future__ import annotations

import pytest
import torch

from engine.kernels import reference
from tests.engine.kernel_layers import Awq

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

on_a_gpu = pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a GPU")

# The interpreter has no products of bfloat16.
TYPES = [torch.float16, torch.bfloat16] if DEVICE.type == "cuda" else [torch.float16]
# Of an operation that rounds its result to the type once or twice, or multiplies such numbers.
ROUNDING = {torch.float16: 2e-3, torch.bfloat16: 1.2e-2}


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Of all elements together, relative; not a number where one of them is none."""
    difference = actual.double().cpu() - expected.double().cpu()
    return float(difference.norm() / expected.double().norm())


def random_awq(inputs: int, outputs: int, group: int, seed: int) -> Awq:
    """Random integers and zero points of all values; scales that keep outputs near the inputs' size."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 16, (inputs, outputs), generator=generator)
    zeros = torch.randint(0, 16, (inputs // group, outputs), generator=generator)
    scales = (0.5 + torch.rand(inputs // group, outputs, generator=generator)) * 0.15 * inputs**-0.5
    return Awq(reference.pack_nibbles(q), reference.pack_nibbles(zeros), scales.half())


def random_parents(rows: int, seed: int) -> list[int]:
    """A tree, or several, behind a chain."""
    generator = torch.Generator().manual_seed(seed)

    def below(limit: int) -> int:
        return int(torch.randint(0, limit, (), generator=generator))

    chain = below(rows)
    return [row - 1 if row < chain else below(row + 1) - 1 for row in range(rows)]
