"""PackedLinear: a linear layer with weights of 4 or 8 bits, on whichever backend this machine has."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof
from typing import Final

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels import native, reference
from engine.kernels.weights import DenseWeights, NativeWeights, Shape, TorchInt4Weights, Weights

GROUP_SIZES: Final = (32, 64, 128)
DENSE_GROUP: Final = 64


def dense_shape(out_features: int, in_features: int, group_size: int = DENSE_GROUP) -> Shape:
    """What becomes of a dense weight: 8 bits, in groups of `group_size` or of the next smaller size that divides K.

    Raises TreelineError if K is not a multiple of 32.
    """
    group = next((g for g in (group_size, *reversed(GROUP_SIZES)) if g <= group_size and in_features % g == 0), 0)
    if group not in GROUP_SIZES:
        raise TreelineError(f"weight has {in_features} inputs: the kernels need a multiple of 32")
    return Shape(in_features, out_features, group, 8)


class PackedLinear:
    """y = x W^T + bias for W [out_features, in_features] of 4 or 8 bits; immutable.

    Native weights quantise activations to int8 per row and group; a row's result is the same bits whatever rows are
    beside it. `in_features` is a multiple of `group_size`, which is 32, 64 or 128.
    """

    __slots__ = (
        "_address",
        "_bias",
        "_function",
        "_struct",
        "bits",
        "group_size",
        "in_features",
        "out_features",
        "weights",
    )

    def __init__(self, shape: Shape, weights: Weights, bias: Tensor | None = None) -> None:
        """`bias` [N] or None."""
        self.in_features, self.out_features = shape.in_features, shape.out_features
        self.group_size, self.bits = shape.group_size, shape.bits
        self.weights = weights
        self._bias = None if bias is None else _padded(bias)
        self._address = 0
        if isinstance(weights, NativeWeights):
            self._struct = weights.struct(self._bias)
            self._address = addressof(self._struct)
            self._function = native.required().tl_linear

    @property
    def shape(self) -> Shape:
        """Sizes, group and bits."""
        return Shape(self.in_features, self.out_features, self.group_size, self.bits)

    @property
    def bias(self) -> Tensor | None:
        """Float32 [N] or None."""
        return None if self._bias is None else self._bias[: self.out_features]

    @property
    def padded_bias(self) -> Tensor | None:
        """The same with zeros up to a multiple of 16: what the native kernels read."""
        return self._bias

    @property
    def native_struct(self) -> native.LinearStruct | None:
        """The C argument, for native weights; valid as long as this object lives."""
        return self._struct if self._address else None

    @classmethod
    def from_awq(
        cls, qweight: Tensor, qzeros: Tensor | None, scales: Tensor, group_size: int, bias: Tensor | None = None
    ) -> PackedLinear:
        """From AutoAWQ's "gemm" tensors.

        `qweight` int32 [K, N / 8], `qzeros` int32 [K / group, N / 8] or None for checkpoints without zero points,
        `scales` float16 [K / group, N]. Raises TreelineError for sizes that disagree.
        """
        shape = Shape(qweight.shape[0], qweight.shape[1] * 8, group_size, 4)
        _check_awq(shape, qweight, qzeros, scales)
        backend = native.backend()
        weights: Weights
        if backend == "native":
            weights = NativeWeights.from_awq(shape, qweight, qzeros, scales)
        elif backend == "torch" and TorchInt4Weights.fits(shape):
            weights = TorchInt4Weights.from_awq(shape, qweight, qzeros, scales)
        else:
            weights = DenseWeights(reference.dequantize_awq(qweight, qzeros, scales))
        return cls(shape, weights, bias)

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None = None, group_size: int = DENSE_GROUP) -> PackedLinear:
        """From float [N, K]: 8 bits, symmetric, per (row, group); the group shrinks to one that divides K.

        Backends other than native keep the weights in float32. Raises TreelineError if K is not a multiple of 32.
        """
        out_features, in_features = weight.shape
        shape = dense_shape(out_features, in_features, group_size)
        if native.backend() == "native":
            return cls(shape, NativeWeights.from_dense(shape, weight), bias)
        return cls(shape, DenseWeights(weight.detach().float()), bias)

    @classmethod
    def concat(cls, parts: Sequence[PackedLinear]) -> PackedLinear:
        """One layer whose outputs are those of `parts` one after another (q|k|v, gate|up).

        Raises TreelineError if they differ in inputs, group or bits, or if a part's outputs are no multiple of 8.
        """
        first = parts[0].shape
        for part in parts:
            if (part.in_features, part.group_size, part.bits) != (first.in_features, first.group_size, first.bits):
                raise TreelineError(f"cannot join layers of shapes {first} and {part.shape}")
            if part.out_features % 8:
                raise TreelineError(f"cannot join a layer with {part.out_features} outputs: need a multiple of 8")
        shape = Shape(first.in_features, sum(part.out_features for part in parts), first.group_size, first.bits)
        return cls(shape, _concat_weights(shape, [part.weights for part in parts]), _concat_bias(parts))

    def __call__(self, x: Tensor, norm: Tensor | None = None, eps: float = 0.0) -> Tensor:
        """Float32 [M, N] from float32 x [M, K]; with `norm` [K], from RMSNorm(x) (one pass over x)."""
        if not self._address:
            y = self.weights.multiply(x if norm is None else reference.rms_norm(x, norm, eps))
            return y if self._bias is None else y + self._bias[: self.out_features]
        if x.dtype != torch.float32 or x.dim() != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"expected float32 [M, {self.in_features}], got {x.dtype} {tuple(x.shape)}")
        x = x.contiguous()
        out = torch.empty(x.shape[0], self.out_features)
        weight = 0 if norm is None else norm.data_ptr()
        self._function(self._address, x.data_ptr(), x.shape[0], weight, eps, out.data_ptr(), native.threads())
        return out

    def dequantize(self) -> Tensor:
        """Float32 [N, K]: what the kernel multiplies by."""
        return self.weights.dequantize()


def _padded(bias: Tensor) -> Tensor:
    """Float32, with room for the last tile of 16 outputs; itself where it is that already."""
    if bias.dtype == torch.float32 and len(bias) % 16 == 0 and bias.is_contiguous():
        return bias.detach()
    padded = torch.zeros(-(-len(bias) // 16) * 16)
    padded[: len(bias)] = bias.detach().float()
    return padded


def _check_awq(shape: Shape, qweight: Tensor, qzeros: Tensor | None, scales: Tensor) -> None:
    groups = shape.in_features // shape.group_size if shape.group_size in GROUP_SIZES else 0
    wanted = (groups, shape.out_features)
    if shape.group_size not in GROUP_SIZES or shape.in_features % shape.group_size:
        raise TreelineError(
            f"group size {shape.group_size} for {shape.in_features} inputs: need 32, 64 or 128 that divides them"
        )
    if qweight.dtype != torch.int32 or tuple(scales.shape) != wanted:
        raise TreelineError(
            f"AWQ scales are {list(scales.shape)} for qweight {list(qweight.shape)}: expected {list(wanted)}"
        )
    if qzeros is not None and tuple(qzeros.shape) != (groups, qweight.shape[1]):
        raise TreelineError(f"AWQ qzeros are {list(qzeros.shape)}: expected {[groups, qweight.shape[1]]}")


def _concat_weights(shape: Shape, parts: Sequence[Weights]) -> Weights:
    blocks = [part for part in parts if isinstance(part, NativeWeights)]
    if len(blocks) == len(parts):
        return NativeWeights.concat(shape, blocks)
    int4 = [part for part in parts if isinstance(part, TorchInt4Weights)]
    if len(int4) == len(parts):
        return TorchInt4Weights.concat(int4)
    return DenseWeights(torch.cat([part.dequantize() for part in parts]))


def _concat_bias(parts: Sequence[PackedLinear]) -> Tensor | None:
    if all(part.bias is None for part in parts):
        return None
    return torch.cat([torch.zeros(part.out_features) if part.bias is None else part.bias for part in parts])
