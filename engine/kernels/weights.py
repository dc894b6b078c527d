"""Weights of one linear layer in the form that each backend multiplies by."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.kernels import native, reference

DENSE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # csrc/pack.h
PANEL = 8  # columns that stay together in a block; a tile is two panels


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a weight [out_features, in_features] whose scales span `group_size` inputs."""

    in_features: int
    out_features: int
    group_size: int
    bits: int


class Weights(Protocol):
    """What a backend keeps of a weight."""

    def multiply(self, x: Tensor) -> Tensor:
        """Float32 [M, N] = x [M, K] W^T, without bias."""
        ...

    def dequantize(self) -> Tensor:
        """Float32 [N, K]."""
        ...


@dataclass(frozen=True, slots=True)
class NativeWeights:
    """Blocks as csrc/gemm.h describes them: uint8, one dimension, 64-byte aligned."""

    shape: Shape
    blocks: Tensor

    @classmethod
    def from_awq(cls, shape: Shape, qweight: Tensor, qzeros: Tensor | None, scales: Tensor) -> NativeWeights:
        """Pack an AWQ layer (reference.unpack_awq has the layout)."""
        words = qweight.contiguous()
        zeros = None if qzeros is None else qzeros.contiguous()
        halves = scales.to(torch.float16).contiguous()
        blocks, struct = _empty_blocks(shape)
        pointer = None if zeros is None else zeros.data_ptr()
        native.required().tl_pack_awq(
            byref(struct), blocks.data_ptr(), words.data_ptr(), pointer, halves.data_ptr(), native.threads()
        )
        return cls(shape, blocks)

    @classmethod
    def from_dense(cls, shape: Shape, weight: Tensor) -> NativeWeights:
        """Quantise float32, float16 or bfloat16 [N, K] to 8 bits."""
        weight = weight.detach().contiguous()
        if weight.dtype not in DENSE_TYPES:
            weight = weight.float()
        blocks, struct = _empty_blocks(shape)
        native.required().tl_pack_dense(
            byref(struct), blocks.data_ptr(), weight.data_ptr(), DENSE_TYPES[weight.dtype], native.threads()
        )
        return cls(shape, blocks)

    @classmethod
    def concat(cls, shape: Shape, parts: Sequence[NativeWeights]) -> NativeWeights:
        """Stack along N, panel by panel; each part's N is a multiple of 8."""
        if all(part.shape.out_features % (2 * PANEL) == 0 for part in parts):
            return cls(shape, torch.cat([part.blocks for part in parts]))
        panels = torch.cat([part._panels() for part in parts])
        if len(panels) % 2:
            panels = torch.cat((panels, panels.new_zeros(1, *panels.shape[1:])))
        blocks, _ = _empty_blocks(shape)
        lines = panels.shape[1]
        blocks.view(-1, lines, 2, 32).copy_(panels.view(-1, 2, lines, 32).transpose(1, 2))
        return cls(shape, blocks)

    def _panels(self) -> Tensor:
        tiles = -(-self.shape.out_features // 16)
        by_panel = self.blocks.view(tiles, -1, 2, 32).transpose(1, 2).reshape(tiles * 2, -1, 32)
        return by_panel[: self.shape.out_features // PANEL]

    def struct(self, bias: Tensor | None) -> native.LinearStruct:
        """The argument that C takes. The caller keeps `self` and `bias` alive."""
        return native.LinearStruct(
            self.blocks.data_ptr(),
            None if bias is None else bias.data_ptr(),
            self.shape.in_features,
            self.shape.out_features,
            self.shape.group_size,
            self.shape.bits,
        )

    def multiply(self, x: Tensor) -> Tensor:
        """Float32 [M, N]."""
        out = torch.empty(x.shape[0], self.shape.out_features)
        struct = self.struct(None)
        native.required().tl_linear(
            byref(struct), x.data_ptr(), x.shape[0], None, 0.0, out.data_ptr(), native.threads()
        )
        return out

    def dequantize(self) -> Tensor:
        """Float32 [N, K]."""
        out = torch.empty(self.shape.out_features, self.shape.in_features)
        native.required().tl_dequantize(byref(self.struct(None)), out.data_ptr(), native.threads())
        return out


def block_bytes(shape: Shape) -> int:
    """Size of `NativeWeights.blocks`."""
    tiles, groups = -(-shape.out_features // 16), shape.in_features // shape.group_size
    return tiles * groups * (64 + shape.group_size * 2 * shape.bits)


def _empty_blocks(shape: Shape) -> tuple[Tensor, native.LinearStruct]:
    blocks = torch.zeros(block_bytes(shape), dtype=torch.uint8)
    return blocks, NativeWeights(shape, blocks).struct(None)


@dataclass(frozen=True, slots=True)
class DenseWeights:
    """Float32 [N, K]: the reference, and the fallback for shapes that torch's int4 product does not take."""

    weight: Tensor

    def multiply(self, x: Tensor) -> Tensor:
        """Float32 [M, N]."""
        return reference.linear(x, self.weight)

    def dequantize(self) -> Tensor:
        """Float32 [N, K]."""
        return self.weight


@dataclass(frozen=True, slots=True)
class TorchInt4Weights:
    """For torch's own int4 product: w = (q - 8) * scale + offset, with scale and offset in bfloat16."""

    packed: Tensor
    scales_and_offsets: Tensor  # bfloat16 [K / group, N, 2]
    weight: Tensor  # uint8 [N, K / 2]: two unsigned weights a byte, even k low
    group_size: int

    @staticmethod
    def fits(shape: Shape) -> bool:
        """Whether torch's kernel takes this shape."""
        return shape.group_size in (32, 64, 128, 256) and shape.out_features % 16 == 0 and shape.in_features % 2 == 0

    @classmethod
    def from_awq(cls, shape: Shape, qweight: Tensor, qzeros: Tensor | None, scales: Tensor) -> TorchInt4Weights:
        """From an AWQ layer; offset = (8 - z) * scale."""
        q, zeros = reference.unpack_awq(qweight, qzeros, scales)
        offsets = (reference.NO_ZERO_POINT - zeros.float()) * scales.float()
        pairs = torch.stack((scales.float(), offsets), -1).to(torch.bfloat16).contiguous()
        return cls._pack(q.T.contiguous(), pairs, shape.group_size)

    @classmethod
    def _pack(cls, q: Tensor, pairs: Tensor, group: int) -> TorchInt4Weights:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.to(torch.int32), 1)  # 1: unused on CPUs
        return cls(packed, pairs, q[:, ::2] | q[:, 1::2] << 4, group)

    @classmethod
    def concat(cls, parts: Sequence[TorchInt4Weights]) -> TorchInt4Weights:
        """Stack along N."""
        q = torch.cat([part._unsigned() for part in parts])
        return cls._pack(q, torch.cat([part.scales_and_offsets for part in parts], 1).contiguous(), parts[0].group_size)

    def _unsigned(self) -> Tensor:
        return torch.stack((self.weight & 15, self.weight >> 4), -1).flatten(1)

    def multiply(self, x: Tensor) -> Tensor:
        """Float32 [M, N]; products in bfloat16."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.to(torch.bfloat16).contiguous(), self.packed, self.group_size, self.scales_and_offsets
        ).float()

    def dequantize(self) -> Tensor:
        """Float32 [N, K]."""
        scales, offsets = self.scales_and_offsets.float().unbind(-1)  # [K / group, N]
        spread = [t.T.repeat_interleave(self.group_size, 1) for t in (scales, offsets)]
        return (self._unsigned().float() - reference.NO_ZERO_POINT) * spread[0] + spread[1]
