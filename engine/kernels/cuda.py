"""The GPU path: layers, output projection and recorded passes in Triton's kernels. Needs the package `triton`.

Import it late: Triton takes time to load, and is not there where torch has no CUDA.
"""

from __future__ import annotations

from engine.kernels.gpu.cache import GpuCache
from engine.kernels.gpu.graph import Recordings, Stack
from engine.kernels.gpu.layer import GpuHead, GpuLayer, GpuWeights
from engine.kernels.gpu.layout import Int4Layout
from engine.kernels.gpu.linear import DenseLinear, Int4Linear, join
from engine.kernels.gpu.state import PassRows, PassState

__all__ = [
    "DenseLinear",
    "GpuCache",
    "GpuHead",
    "GpuLayer",
    "GpuWeights",
    "Int4Layout",
    "Int4Linear",
    "PassRows",
    "PassState",
    "Recordings",
    "Stack",
    "join",
]
