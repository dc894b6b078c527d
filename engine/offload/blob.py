"""A decoder layer as two flat pieces of memory, which the native kernels compute from wherever they lie.

Two of about the same size, so that a layer can be half resident and a ring needs fewer bytes: the joined gate and up
projections are one, all the rest is the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels import cpu
from engine.kernels.packed import PackedLinear, dense_shape
from engine.kernels.weights import NativeWeights, Shape, block_bytes
from engine.model.config import ModelConfig
from engine.model.loader import layer_shape

CACHE_LINE = 64
Packing = TypeVar("Packing")
SECTOR = 4096  # what O_DIRECT asks offsets, sizes and addresses to be multiples of


def align(size: int, unit: int) -> int:
    """Round `size` up to a multiple of `unit`."""
    return -(-size // unit) * unit


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes [offset, offset + size) of piece `piece` of a layer."""

    piece: int
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
    """Where the parts of a decoder layer lie in its pieces: each on a cache line, the whole padded to sectors."""

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
            bits, group = packed_alike(index, names, lambda name: _packed(config, name, inputs))
            return LinearLayout(Shape(inputs, outputs, group, bits), bias)

        return cls(
            layer_shape(config),
            joined("self_attn.q_proj self_attn.k_proj self_attn.v_proj", queries + 2 * keys, hidden, config.qkv_bias),
            joined("self_attn.o_proj", hidden, queries, config.output_bias),
            joined("mlp.gate_proj mlp.up_proj", 2 * middle, hidden, config.mlp_bias),
            joined("mlp.down_proj", hidden, middle, config.mlp_bias),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of the pieces, multiples of SECTOR."""
        ends = [0, 0]
        for place in self.places():
            ends[place.piece] = max(ends[place.piece], place.offset + place.size)
        return tuple(align(end, SECTOR) for end in ends)

    @property
    def size(self) -> int:
        """Bytes of the layer."""
        return sum(self.sizes)

    def places(self) -> Iterator[Place]:
        """Blocks and bias (perhaps of size 0) of each linear layer, then the two norms; in a piece, offsets ascend."""
        norm = 4 * self.shape.hidden_size
        first = [(0, linear) for linear in (self.qkv, self.output, self.down)]
        sized = [
            (piece, size)
            for piece, linear in (*first, (1, self.gate_up))
            for size in (block_bytes(linear.shape), linear.bias_bytes)
        ]
        ends = [0, 0]
        for piece, size in (*sized, (0, norm), (0, norm)):
            yield Place(piece, ends[piece], size)
            ends[piece] = align(ends[piece] + size, CACHE_LINE)

    def tensors(self, layer: cpu.NativeLayer) -> Iterator[tuple[Place, Tensor]]:
        """What goes into the pieces of `layer`, and where. Raises TreelineError if it is not of this layout."""
        weights = layer.weights
        linears = (weights.qkv, weights.output, weights.down, weights.gate_up)
        layouts = (self.qkv, self.output, self.down, self.gate_up)
        alike = all(
            (linear.shape, linear.bias is not None) == (layout.shape, layout.bias)
            for linear, layout in zip(linears, layouts, strict=True)
        )
        if not alike or layer.shape != self.shape or weights.q_norm is not None or weights.k_norm is not None:
            raise TreelineError("a layer is packed in another way than config.json says: it cannot be streamed")
        contents: list[Tensor] = []
        for linear in linears:
            assert isinstance(linear.weights, NativeWeights)  # NativeLayer takes nothing else
            bias = linear.padded_bias
            contents += linear.weights.blocks, torch.empty(0) if bias is None else bias
        contents += weights.input_norm, weights.post_attention_norm
        for place, content in zip(self.places(), contents, strict=True):
            if place.size:
                yield place, content.contiguous().view(torch.uint8)

    def layer(self, pieces: Sequence[Tensor]) -> cpu.NativeLayer:
        """The layer whose pieces lie, or will lie, in `pieces` uint8 [size]; nothing is copied."""
        at = [pieces[place.piece][place.offset : place.offset + place.size] for place in self.places()]

        def linear(index: int, layout: LinearLayout) -> PackedLinear:
            bias = at[2 * index + 1].view(torch.float32) if layout.bias else None
            return PackedLinear(layout.shape, NativeWeights(layout.shape, at[2 * index]), bias)

        qkv, output, down, gate_up = (
            linear(*each) for each in enumerate((self.qkv, self.output, self.down, self.gate_up))
        )
        input_norm, post_norm = (norm.view(torch.float32) for norm in at[-2:])
        return cpu.NativeLayer(self.shape, cpu.LayerWeights(qkv, output, gate_up, down, input_norm, post_norm))


def packed_alike(index: int, names: str, packed: Callable[[str], Packing]) -> Packing:
    """Return what `packed` says of the projections `names` of layer `index`, which are joined into one.

    Raises TreelineError if it does not say the same of all of them.
    """
    kinds = {packed(f"model.layers.{index}.{name}") for name in names.split()}
    if len(kinds) > 1:
        raise TreelineError(
            f"layer {index} has {names.replace(' ', ', ')} in different precisions: such a model cannot be streamed;"
            " allow memory for all of it"
        )
    return kinds.pop()


def _packed(config: ModelConfig, name: str, inputs: int) -> tuple[int, int]:
    """Bits and group size of a projection, as LinearLoader packs it."""
    awq = config.awq
    if awq and awq.covers(name):
        return 4, awq.group_size
    return 8, dense_shape(0, inputs).group_size
