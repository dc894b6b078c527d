"""One decoder layer in one call of the native kernels."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from ctypes import addressof
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels import native
from engine.kernels.packed import PackedLinear

BLOCK = 16  # slots whose keys lie together (csrc/attention.h)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Sizes of a decoder layer (Llama's kind: RMSNorm, RoPE, grouped-query attention, SwiGLU)."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Weights of a decoder layer. `qkv` and `gate_up` are `PackedLinear.concat`s; norms are float32 vectors.

    `q_norm` and `k_norm` [head_dim]: RMSNorm of every query and key head before the rotation (Qwen3), or None.
    """

    qkv: PackedLinear
    output: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear
    input_norm: Tensor
    post_attention_norm: Tensor
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


class Step:
    """One pass, the same for all layers.

    `past` committed positions, `first` uncommitted rows already in the cache, `count` new rows.
    """

    __slots__ = ("_buffers", "_struct", "address", "count", "end")

    def __init__(self, past: int, first: int, parents: Sequence[int], positions: Sequence[int], rope: Tensor) -> None:
        """`parents` of all uncommitted rows (-1: the last committed position), `positions` of the new ones.

        `rope` float32 [2, positions, head_dim / 2]: cos and sin. Raises ValueError for sizes or types that do not fit.
        """
        self.count = len(parents) - first
        if len(positions) != self.count:
            raise ValueError(f"{len(positions)} positions for {self.count} rows")
        if rope.dtype != torch.float32 or rope.dim() != 3 or not rope.is_contiguous():
            raise ValueError("rope must be contiguous float32 [2, positions, head_dim / 2]")
        if positions and not 0 <= min(positions) <= max(positions) < rope.shape[1]:
            raise ValueError(f"positions {min(positions)} to {max(positions)}: there are {rope.shape[1]}")
        self.end = past + first + self.count
        parent_array, position_array = array("i", parents), array("i", positions)
        self._buffers = (parent_array, position_array, rope)
        cos, sine_offset = rope.data_ptr(), rope.stride(0) * 4
        pointers = (parent_array.buffer_info()[0], position_array.buffer_info()[0], cos, cos + sine_offset)
        self._struct = native.StepStruct(past, first, self.count, *pointers)
        self.address = addressof(self._struct)


class NativeCache:
    """Keys and values of one layer for `capacity` slots, as bfloat16 in the order that csrc/attention.h reads.

    Memory is touched only as slots are written. Never written slots hold zeros.
    """

    __slots__ = ("_data", "_function", "_struct", "address", "capacity", "head_dim", "kv_heads")

    def __init__(self, kv_heads: int, head_dim: int, capacity: int) -> None:
        self.kv_heads, self.head_dim, self.capacity = kv_heads, head_dim, -(-capacity // BLOCK) * BLOCK
        # numpy's zeros are the system's untouched ones; torch's would be written.
        self._data = torch.from_numpy(np.zeros(2 * kv_heads * self.capacity * head_dim, np.int16)).view(torch.bfloat16)  # pyright: ignore[reportUnknownMemberType]
        keys, size = self._data.data_ptr(), self._data.nbytes // 2
        self._struct = native.CacheStruct(keys, keys + size, self.capacity, kv_heads, head_dim)
        self._function = native.required().tl_move_slots
        self.address = addressof(self._struct)

    @staticmethod
    def slot_bytes(kv_heads: int, head_dim: int) -> int:
        """Return the bytes of one slot."""
        return 2 * 2 * kv_heads * head_dim

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._data.device

    def move(self, sources: Tensor, target: int) -> None:
        """Let slots `sources` (int32), ascending and none before its target, become the slots from `target` on."""
        self._function(self.address, sources.data_ptr(), len(sources), target)

    def read(self, slots: int) -> Tensor:
        """Return a copy of the first slots: float32 [keys|values, kv_heads, slots, head_dim]."""
        keys, values = self._data.view(2, self.kv_heads, -1)
        keys = keys.view(self.kv_heads, -1, self.head_dim // 2, BLOCK, 2).permute(0, 1, 3, 2, 4)
        values = values.view(self.kv_heads, -1, self.head_dim, 2).permute(0, 1, 3, 2)
        shape = (self.kv_heads, self.capacity, self.head_dim)
        return torch.stack((keys.reshape(shape), values.reshape(shape)))[:, :, :slots].float()


class NativeLayer:
    """A decoder layer whose call is one call of C."""

    __slots__ = ("_address", "_function", "_struct", "_width", "shape", "weights")

    def __init__(self, shape: LayerShape, weights: LayerWeights) -> None:
        """Raise TreelineError if the native kernels cannot run this layer (ask `fits` first)."""
        if reason := _obstacle(shape, weights):
            raise TreelineError(f"the native layer cannot be used: {reason}")
        self.shape = shape
        self.weights = weights  # keeps the memory that the struct points into
        linears = [linear.native_struct for linear in (weights.qkv, weights.output, weights.gate_up, weights.down)]
        norms = (weights.input_norm, weights.post_attention_norm, weights.q_norm, weights.k_norm)
        self._struct = native.LayerStruct(
            *linears,
            *(None if norm is None else norm.data_ptr() for norm in norms),
            shape.hidden_size,
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
            shape.intermediate_size,
            shape.rms_norm_eps,
        )
        self._address = addressof(self._struct)
        self._function = native.required().tl_layer
        self._width = shape.hidden_size

    @staticmethod
    def fits(shape: LayerShape, weights: LayerWeights) -> bool:
        """Whether the native kernels can run this layer."""
        return _obstacle(shape, weights) is None

    def __call__(self, hidden: Tensor, step: Step, cache: NativeCache) -> None:
        """Update hidden float32 [count, H] in place, and write keys and values of row i at slot past + first + i.

        Raises ValueError if the cache is too short or hidden is of another type or size.
        """
        if cache.capacity < step.end:
            raise ValueError(f"cache of {cache.capacity} slots for {step.end} rows")
        if hidden.shape != (step.count, self._width) or hidden.dtype != torch.float32 or not hidden.is_contiguous():
            raise ValueError(f"hidden must be contiguous float32 [{step.count}, {self._width}]")
        self._function(self._address, step.address, hidden.data_ptr(), cache.address, native.threads())


def _obstacle(shape: LayerShape, weights: LayerWeights) -> str | None:
    """Why the native layer cannot run, or None."""
    context = shape.num_attention_heads * shape.head_dim
    qkv = context + 2 * shape.num_key_value_heads * shape.head_dim
    wanted = (
        ("q|k|v", weights.qkv, shape.hidden_size, qkv),
        ("output", weights.output, context, shape.hidden_size),
        ("gate|up", weights.gate_up, shape.hidden_size, 2 * shape.intermediate_size),
        ("down", weights.down, shape.intermediate_size, shape.hidden_size),
    )
    for name, linear, inputs, outputs in wanted:
        if linear.native_struct is None:
            return f"{name} is not packed for the native kernels"
        if (linear.in_features, linear.out_features) != (inputs, outputs):
            return f"{name} is [{linear.out_features}, {linear.in_features}], expected [{outputs}, {inputs}]"
    if shape.head_dim % 16 or shape.num_attention_heads % shape.num_key_value_heads:
        return f"head size {shape.head_dim} is no multiple of 16, or the heads do not divide"
    if weights.qkv.group_size != weights.gate_up.group_size:
        return "q|k|v and gate|up have different group sizes"
    if weights.gate_up.bias is not None:
        return "gate|up has a bias"
    norms = (weights.input_norm, weights.post_attention_norm, weights.q_norm, weights.k_norm)
    if any(norm is not None and (norm.dtype != torch.float32 or not norm.is_contiguous()) for norm in norms):
        return "a norm is not contiguous float32"
    return None
