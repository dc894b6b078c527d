"""A decoder layer with random weights, as plain torch and as native kernels see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels import reference
from engine.kernels.cpu import LayerShape, LayerWeights, NativeCache, NativeLayer, PackedLinear, Step

TINY = LayerShape(128, 4, 2, 32, 256, 1e-5)


@dataclass(frozen=True, slots=True)
class Awq:
    """The tensors of an AWQ layer."""

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor


def random_awq(inputs: int, outputs: int, group: int, seed: int = 0) -> Awq:
    """Random integers and zero points; scales that keep outputs near the inputs' size."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 16, (inputs, outputs), generator=generator)
    zeros = torch.randint(5, 11, (inputs // group, outputs), generator=generator)
    scales = (0.5 + torch.rand(inputs // group, outputs, generator=generator)) * 0.2 * inputs**-0.5
    return Awq(reference.pack_nibbles(q), reference.pack_nibbles(zeros), scales.half())


def random_linear(inputs: int, outputs: int, group: int, seed: int, bias: bool = False) -> PackedLinear:
    """A 4-bit layer, with a random bias if asked for."""
    awq = random_awq(inputs, outputs, group, seed)
    vector = torch.randn(outputs, generator=torch.Generator().manual_seed(seed)) if bias else None
    return PackedLinear.from_awq(awq.qweight, awq.qzeros, awq.scales, group, vector)


def random_layer(
    shape: LayerShape, group: int, seed: int, bias: bool = False, head_norms: bool = False
) -> LayerWeights:
    """Weights of one layer."""
    generator = torch.Generator().manual_seed(seed)
    hidden, dim = shape.hidden_size, shape.head_dim
    context, keys = shape.num_attention_heads * dim, shape.num_key_value_heads * dim
    parts = [random_linear(hidden, n, group, seed * 10 + i, bias) for i, n in enumerate((context, keys, keys))]
    halves = [random_linear(hidden, shape.intermediate_size, group, seed * 10 + 3 + i) for i in range(2)]

    def norm(size: int) -> Tensor:
        return 0.5 + torch.rand(size, generator=generator)

    return LayerWeights(
        qkv=PackedLinear.concat(parts),
        output=random_linear(context, hidden, group, seed * 10 + 5, bias),
        gate_up=PackedLinear.concat(halves),
        down=random_linear(shape.intermediate_size, hidden, group, seed * 10 + 6),
        input_norm=norm(hidden),
        post_attention_norm=norm(hidden),
        q_norm=norm(dim) if head_norms else None,
        k_norm=norm(dim) if head_norms else None,
    )


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of one layer, float32 [kv_heads, capacity, head_dim] each."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, shape: LayerShape, capacity: int) -> Cache:
        """Filled with a value that would show if an unwritten slot were read."""
        sizes = (shape.num_key_value_heads, capacity, shape.head_dim)
        return cls(torch.full(sizes, 1e9), torch.full(sizes, 1e9))


def empty_cache(shape: LayerShape, capacity: int) -> NativeCache:
    """The native kernels' cache, filled with a value that would show if an unwritten slot were read."""
    cache = NativeCache(shape.num_key_value_heads, shape.head_dim, capacity)
    cache._data.fill_(1e9)
    return cache


def copy_of(cache: NativeCache) -> NativeCache:
    """A copy."""
    other = NativeCache(cache.kv_heads, cache.head_dim, cache.capacity)
    other._data.copy_(cache._data)
    return other


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass as the native kernels take it, and what the reference functions need of it."""

    past: int
    first: int
    parents: Sequence[int]
    native: Step
    cos: Tensor
    sin: Tensor

    @property
    def count(self) -> int:
        """New rows."""
        return len(self.parents) - self.first


def make_pass(shape: LayerShape, past: int, first: int, parents: Sequence[int]) -> Pass:
    """A pass that adds rows `parents[first:]` at the positions that their depth gives them."""
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    positions = [past + depth for depth in depths[first:]]
    frequencies = 10000.0 ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
    angles = torch.arange(0, max(positions, default=0) + 1)[:, None] * frequencies
    rope = torch.stack((angles.cos(), angles.sin()))
    return Pass(past, first, parents, Step(past, first, parents, positions, rope), *rope[:, positions])


def plain_layer(shape: LayerShape, weights: LayerWeights, hidden: Tensor, step: Pass, cache: Cache) -> Tensor:
    """The layer by the reference functions, in float32; writes into the cache."""
    n, dim, eps = step.count, shape.head_dim, shape.rms_norm_eps
    heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads

    def project(linear: PackedLinear, x: Tensor) -> Tensor:
        return reference.linear(x, linear.dequantize(), linear.bias)

    qkv = project(weights.qkv, reference.rms_norm(hidden, weights.input_norm, eps)).view(n, -1, dim)
    q, k, v = qkv.split((heads, kv_heads, kv_heads), 1)
    if weights.q_norm is not None and weights.k_norm is not None:
        q, k = reference.rms_norm(q, weights.q_norm, eps), reference.rms_norm(k, weights.k_norm, eps)
    start, end = step.past + step.first, step.past + step.first + n
    cache.keys[:, start:end] = reference.apply_rope(k, step.cos, step.sin).transpose(0, 1)
    cache.values[:, start:end] = v.transpose(0, 1)
    mask = reference.visible_slots(step.past, step.first, n, step.parents)
    context = reference.attention(
        reference.apply_rope(q, step.cos, step.sin), cache.keys[:, :end], cache.values[:, :end], mask
    )
    hidden = hidden + project(weights.output, context)
    normed = reference.rms_norm(hidden, weights.post_attention_norm, eps)
    return hidden + project(weights.down, reference.silu_and_mul(project(weights.gate_up, normed)))


def run(layers: Sequence[NativeLayer], hidden: Tensor, step: Pass, caches: Sequence[NativeCache]) -> Tensor:
    """A stack of native layers on a copy of `hidden`."""
    hidden = hidden.clone()
    for layer, cache in zip(layers, caches, strict=True):
        layer(hidden, step.native, cache)
    return hidden
