"""One decoder layer as one flat piece of memory, which the native kernels compute from wherever it lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels import cpu
from engine.kernels.packed import PackedLinear, dense_shape
from engine.kernels.weights import NativeWeights, Shape, block_bytes
from engine.model.config import ModelConfig

CACHE_LINE = 64
SECTOR = 4096  # what O_DIRECT asks offsets, sizes and addresses to be multiples of


def align(size: int, unit: int) -> int:
    """Round `size` up to a multiple of `unit`."""
    return -(-size // unit) * unit


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [offset, offset + size) of a blob."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class LinearLayout:
    """A linear layer's blocks (csrc/gemm.h) and the float32 bias behind them, padded to whole tiles."""

    shape: Shape
    bias: bool

    @property
    def bias_bytes(self) -> int:
        """0 without a bias."""
        return 4 * align(self.shape.out_features, 16) if self.bias else 0


@dataclass(frozen=True, slots=True)
class BlobLayout:
    """Where the parts of a decoder layer lie in its blob: each on a cache line, the whole padded to sectors."""

    shape: cpu.LayerShape
    qkv: LinearLayout
    output: LinearLayout
    gate_up: LinearLayout
    down: LinearLayout

    @classmethod
    def of(cls, config: ModelConfig, index: int) -> BlobLayout:
        """Derive the layout of layer `index` from a checkpoint's configuration, before anything is loaded.

        Raises TreelineError for a layer that the native kernels cannot compute as one.
        """
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        hidden, middle = config.hidden_size, config.intermediate_size

        def joined(names: str, outputs: int, inputs: int, bias: bool) -> LinearLayout:
            parts = {_packed(config, f"model.layers.{index}.{name}", inputs) for name in names.split()}
            if len(parts) > 1:
                raise TreelineError(
                    f"layer {index} has {names.replace(' ', ', ')} in different precisions: such a model cannot be"
                    " streamed; allow memory for all of it"
                )
            bits, group = parts.pop()
            return LinearLayout(Shape(inputs, outputs, group, bits), bias)

        return cls(
            cpu.LayerShape(
                hidden,
                config.num_attention_heads,
                config.num_key_value_heads,
                config.head_dim,
                middle,
                config.rms_norm_eps,
            ),
            joined("self_attn.q_proj self_attn.k_proj self_attn.v_proj", queries + 2 * keys, hidden, config.qkv_bias),
            joined("self_attn.o_proj", hidden, queries, config.output_bias),
            joined("mlp.gate_proj mlp.up_proj", 2 * middle, hidden, config.mlp_bias),
            joined("mlp.down_proj", hidden, middle, config.mlp_bias),
        )

    @property
    def linears(self) -> tuple[LinearLayout, ...]:
        """In the order in which they lie in the blob."""
        return self.qkv, self.output, self.gate_up, self.down

    @property
    def size(self) -> int:
        """Bytes of a blob, a multiple of SECTOR."""
        *_, last = self.pieces()
        return align(last.offset + last.size, SECTOR)

    def pieces(self) -> Iterator[Piece]:
        """Blocks and bias (perhaps of size 0) of each linear layer, then the two norms."""
        norm_bytes = 4 * self.shape.hidden_size
        sizes = [size for linear in self.linears for size in (block_bytes(linear.shape), linear.bias_bytes)]
        offset = 0
        for size in (*sizes, norm_bytes, norm_bytes):
            yield Piece(offset, size)
            offset = align(offset + size, CACHE_LINE)

    def tensors(self, layer: cpu.NativeLayer) -> Iterator[tuple[Piece, Tensor]]:
        """What goes into the blob of `layer`, and where. Raises TreelineError if it is not of this layout."""
        weights = layer.weights
        linears = (weights.qkv, weights.output, weights.gate_up, weights.down)
        alike = all(
            (linear.shape, linear.bias is not None) == (layout.shape, layout.bias)
            for linear, layout in zip(linears, self.linears, strict=True)
        )
        if not alike or layer.shape != self.shape or weights.q_norm is not None or weights.k_norm is not None:
            raise TreelineError("a layer is packed in another way than config.json says: it cannot be streamed")
        contents: list[Tensor] = []
        for linear in linears:
            assert isinstance(linear.weights, NativeWeights)  # NativeLayer takes nothing else
            bias = linear.padded_bias
            contents += linear.weights.blocks, torch.empty(0) if bias is None else bias
        contents += weights.input_norm, weights.post_attention_norm
        for piece, content in zip(self.pieces(), contents, strict=True):
            if piece.size:
                yield piece, content.contiguous().view(torch.uint8)

    def layer(self, blob: Tensor) -> cpu.NativeLayer:
        """The layer whose blob lies, or will lie, in `blob` uint8 [size]; nothing is copied."""
        at = [blob[piece.offset : piece.offset + piece.size] for piece in self.pieces()]

        def linear(index: int, layout: LinearLayout) -> PackedLinear:
            bias = at[2 * index + 1].view(torch.float32) if layout.bias else None
            return PackedLinear(layout.shape, NativeWeights(layout.shape, at[2 * index]), bias)

        qkv, output, gate_up, down = (linear(*each) for each in enumerate(self.linears))
        input_norm, post_norm = (norm.view(torch.float32) for norm in at[-2:])
        return cpu.NativeLayer(self.shape, cpu.LayerWeights(qkv, output, gate_up, down, input_norm, post_norm))


def _packed(config: ModelConfig, name: str, inputs: int) -> tuple[int, int]:
    """Bits and group size of a projection, as LinearLoader packs it."""
    awq = config.awq
    if awq and awq.covers(name):
        return 4, awq.group_size
    return 8, dense_shape(0, inputs).group_size
