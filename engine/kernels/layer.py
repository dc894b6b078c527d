"""One decoder layer in one call of the native kernels."""

from __future__ import annotations

from ctypes import addressof
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels import native
from engine.kernels.packed import PackedLinear


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


@dataclass(frozen=True, slots=True)
class Step:
    """One pass, the same for all layers.

    `past` committed positions, `first` uncommitted rows already in the cache, `count` new rows. `parents` int32
    [first + count] for all uncommitted rows (-1: the last committed position). `cos`, `sin` float32
    [count, head_dim / 2] at the new rows' positions.
    """

    past: int
    first: int
    count: int
    parents: Tensor
    cos: Tensor
    sin: Tensor
    _struct: native.StepStruct = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise ValueError for tensors of other types or sizes."""
        if self.parents.dtype != torch.int32 or self.parents.shape != (self.first + self.count,):
            raise ValueError(
                f"parents must be int32 [{self.first + self.count}], not {self.parents.dtype} {self.parents.shape}"
            )
        if not self.parents.is_contiguous():
            raise ValueError("parents must be contiguous")
        for angles in (self.cos, self.sin):
            if angles.dtype != torch.float32 or angles.shape[0] != self.count or not angles.is_contiguous():
                raise ValueError(f"cos and sin must be contiguous float32 [{self.count}, head_dim / 2]")
        pointers = (self.parents.data_ptr(), self.cos.data_ptr(), self.sin.data_ptr())
        object.__setattr__(self, "_struct", native.StepStruct(self.past, self.first, self.count, *pointers))

    @property
    def address(self) -> int:
        """Of the C argument; valid as long as this object lives."""
        return addressof(self._struct)


class NativeLayer:
    """A decoder layer whose call is one call of C."""

    __slots__ = ("_address", "_function", "_struct", "shape", "weights")

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

    @staticmethod
    def fits(shape: LayerShape, weights: LayerWeights) -> bool:
        """Whether the native kernels can run this layer."""
        return _obstacle(shape, weights) is None

    def __call__(self, hidden: Tensor, step: Step, keys: Tensor, values: Tensor) -> None:
        """Update hidden float32 [count, H] in place, and write K and V of row i at slot past + first + i.

        `keys` and `values`: this layer's cache, float32 [kv_heads, capacity, head_dim], slots contiguous per head.
        Raises ValueError if the cache is too short or a tensor is of another type or size.
        """
        shape = self.shape
        if keys.shape[1] < step.past + step.first + step.count:
            raise ValueError(f"cache of {keys.shape[1]} slots for {step.past} + {step.first} + {step.count} rows")
        if (
            hidden.shape != (step.count, shape.hidden_size)
            or hidden.dtype != torch.float32
            or not hidden.is_contiguous()
        ):
            raise ValueError(f"hidden must be contiguous float32 [{step.count}, {shape.hidden_size}]")
        head_stride, slot_stride, _ = keys.stride()
        if values.stride() != keys.stride() or slot_stride != shape.head_dim or keys.dtype != torch.float32:
            raise ValueError("keys and values must be float32 with equal strides and contiguous slots")
        self._function(
            self._address,
            step.address,
            hidden.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            head_stride,
            native.threads(),
        )


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
