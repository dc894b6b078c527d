"""Weights, layers and passes of published shapes with random contents, for benchmarks.cuda."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.cuda import (
    DenseLinear,
    GpuCache,
    GpuHead,
    GpuLayer,
    GpuWeights,
    Int4Layout,
    Int4Linear,
    PassRows,
    Stack,
)
from engine.kernels.layer import LayerShape

POSITIONS = 16384


@dataclass(frozen=True, slots=True)
class Model:
    """A published shape. `group` 0: dense weights."""

    name: str
    shape: LayerShape
    layers: int
    vocabulary: int
    group: int

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's joined projections."""
        shape = self.shape
        queries = shape.num_attention_heads * shape.head_dim
        keys = shape.num_key_value_heads * shape.head_dim
        return {
            "qkv": (shape.hidden_size, queries + 2 * keys),
            "output": (queries, shape.hidden_size),
            "gate|up": (shape.hidden_size, 2 * shape.intermediate_size),
            "down": (shape.intermediate_size, shape.hidden_size),
        }

    @property
    def layer_bytes(self) -> int:
        """What a pass of few rows reads of a layer's weights."""
        if self.group:
            return sum(Int4Layout(k, n, self.group, False).size for k, n in self.products.values())
        return sum(2 * k * n for k, n in self.products.values())


MODELS = (
    Model("llama-3.1-70b int4", LayerShape(8192, 64, 8, 128, 28672, 1e-5), 80, 128256, 128),
    Model("llama-3.1-8b int4", LayerShape(4096, 32, 8, 128, 14336, 1e-5), 32, 128256, 128),
    Model("codedrafter-500m", LayerShape(2048, 32, 8, 64, 8192, 1e-5), 4, 128256, 0),
)
TINY = (
    Model("tiny int4", LayerShape(64, 4, 2, 32, 96, 1e-5), 2, 96, 32),
    Model("tiny dense", LayerShape(64, 4, 1, 32, 96, 1e-5), 2, 96, 0),
)


def int4(inputs: int, outputs: int, group: int, device: torch.device, dtype: torch.dtype) -> Int4Linear:
    """Random weights and zero points; scales that keep outputs near the inputs' size."""
    layout = Int4Layout(inputs, outputs, group, False)
    buffer = torch.randint(0, 256, (layout.size,), dtype=torch.uint8, device=device)
    linear = Int4Linear(layout, buffer, dtype)
    linear.scales.view(torch.float16).fill_(0.15 * inputs**-0.5)
    return linear


def dense(inputs: int, outputs: int, device: torch.device, dtype: torch.dtype) -> DenseLinear:
    """Random weights that keep outputs near the inputs' size."""
    return DenseLinear(torch.randn(outputs, inputs, device=device, dtype=dtype) * inputs**-0.5)


def layer(model: Model, device: torch.device, dtype: torch.dtype) -> GpuLayer:
    """A decoder layer with random weights."""

    def linear(name: str) -> Int4Linear | DenseLinear:
        k, n = model.products[name]
        return int4(k, n, model.group, device, dtype) if model.group else dense(k, n, device, dtype)

    norm = torch.ones(model.shape.hidden_size, device=device)
    weights = GpuWeights(linear("qkv"), linear("output"), linear("gate|up"), linear("down"), norm, norm)
    angles = torch.rand(POSITIONS, model.shape.head_dim // 2, device=device) * 2 * math.pi
    return GpuLayer(model.shape, weights, torch.stack((angles.cos(), angles.sin())))


def stack(model: Model, device: torch.device, dtype: torch.dtype) -> Stack:
    """All layers and the output projection. Layers share weights: larger than a GPU's cache, they are read anew."""
    one = layer(model, device, dtype)
    head = GpuHead(dense(model.shape.hidden_size, model.vocabulary, device, dtype))
    return Stack([one] * model.layers, one.weights.input_norm, model.shape.rms_norm_eps, head)


def caches(model: Model, count: int, slots: int, device: torch.device, dtype: torch.dtype) -> list[GpuCache]:
    """Caches filled with random keys and values up to `slots`."""
    made = [
        GpuCache(model.shape.num_key_value_heads, model.shape.head_dim, POSITIONS, dtype, device) for _ in range(count)
    ]
    for cache in made:
        cache.reserve(slots)
        cache.data.normal_()
    return made


def tree(past: int, rows: int) -> PassRows:
    """A tree of `rows` nodes: every node has two children, as far as they go."""
    parents = [-1 if row == 0 else (row - 1) // 2 for row in range(rows)]
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return PassRows.of(past, 0, parents, [past + depth for depth in depths])


def chain(past: int, rows: int) -> PassRows:
    """A piece of a prompt."""
    return PassRows.of(past, 0, range(-1, rows - 1), range(past, past + rows))


def error(actual: Tensor, expected: Tensor) -> float:
    """Of all elements together, relative, in float64; not a number where one of them is none."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def device_ms(calls: Sequence[Callable[[], object]], rounds: int = 7) -> float:
    """Milliseconds of one of `calls` on the GPU, without the launches' own time: the median of recorded rounds."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times: list[float] = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / len(calls))
    return statistics.median(times)
