"""A decoder layer as one flat piece of memory, which the GPU's kernels compute from wherever in its memory it lies.

Importing this needs no Triton; `tensors` and `layer` do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels.gpu.layout import ALIGNMENT, Int4Layout
from engine.kernels.layer import LayerShape
from engine.model.config import ModelConfig
from engine.model.loader import layer_shape
from engine.offload.blob import SECTOR, Place, align, packed_alike

if TYPE_CHECKING:
    from engine.kernels.cuda import DenseLinear, GpuLayer, Int4Linear


@dataclass(frozen=True, slots=True)
class GpuLinearLayout:
    """A linear layer: of 4 bits (kernels/gpu/layout.py) if `group` is not 0; else in `dtype`, bias behind it."""

    in_features: int
    out_features: int
    group: int
    bias: bool
    dtype: torch.dtype

    @property
    def int4(self) -> Int4Layout:
        """Of 4 bits."""
        return Int4Layout(self.in_features, self.out_features, self.group, self.bias)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the weight, which has its bias with it where it has 4 bits, and of a bias by itself."""
        if self.group:
            return self.int4.size, 0
        return self.in_features * self.out_features * self.dtype.itemsize, 4 * self.out_features * self.bias

    def contents(self, linear: Int4Linear | DenseLinear) -> tuple[Tensor, Tensor]:
        """What goes there. Raises TreelineError if it is not of this layout."""
        from engine.kernels.cuda import Int4Linear

        empty = torch.empty(0)
        if isinstance(linear, Int4Linear):
            if not self.group or linear.layout != self.int4:
                raise TreelineError("a layer is packed in another way than config.json says: it cannot be streamed")
            return linear.buffer, empty
        if self.group or tuple(linear.weight.shape) != (self.out_features, self.in_features):
            raise TreelineError("a layer is packed in another way than config.json says: it cannot be streamed")
        return linear.weight, empty if linear.bias is None else linear.bias.float()

    def linear(self, weight: Tensor, bias: Tensor) -> Int4Linear | DenseLinear:
        """The layer that lies in `weight` and `bias`, uint8."""
        from engine.kernels.cuda import DenseLinear, Int4Linear

        if self.group:
            return Int4Linear(self.int4, weight, self.dtype)
        shaped = weight.view(self.dtype).view(self.out_features, self.in_features)
        return DenseLinear(shaped, bias.view(torch.float32) if self.bias else None)


@dataclass(frozen=True, slots=True)
class GpuBlobLayout:
    """Where the parts of a decoder layer lie: linear layers in the order of the pass, then the norms in float32."""

    shape: LayerShape
    linears: tuple[GpuLinearLayout, ...]

    @classmethod
    def of(cls, config: ModelConfig, index: int, dtype: torch.dtype) -> GpuBlobLayout:
        """Derive the layout of layer `index` from a checkpoint's configuration; `dtype`: of activations.

        Raises TreelineError for projections that are to be joined but are not quantised alike.
        """
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        hidden, middle = config.hidden_size, config.intermediate_size

        def joined(names: str, outputs: int, inputs: int, bias: bool) -> GpuLinearLayout:
            quantised = packed_alike(index, names, lambda name: bool(config.awq and config.awq.covers(name)))
            group = config.awq.group_size if config.awq and quantised else 0
            return GpuLinearLayout(inputs, outputs, group, bias, dtype)

        return cls(
            layer_shape(config),
            (
                joined(
                    "self_attn.q_proj self_attn.k_proj self_attn.v_proj", queries + 2 * keys, hidden, config.qkv_bias
                ),
                joined("self_attn.o_proj", hidden, queries, config.output_bias),
                joined("mlp.gate_proj mlp.up_proj", 2 * middle, hidden, config.mlp_bias),
                joined("mlp.down_proj", hidden, middle, config.mlp_bias),
            ),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of its one piece, a multiple of SECTOR."""
        *_, last = self.places()
        return (align(last.offset + last.size, SECTOR),)

    def places(self) -> Iterator[Place]:
        """Weight and bias (perhaps of size 0) of each linear layer, then the two norms."""
        norm, end = 4 * self.shape.hidden_size, 0
        for size in (*(size for linear in self.linears for size in linear.sizes), norm, norm):
            yield Place(0, end, size)
            end = align(end + size, ALIGNMENT)

    def tensors(self, layer: GpuLayer) -> Iterator[tuple[Place, Tensor]]:
        """What goes into the piece of `layer`, and where. Raises TreelineError if it is not of this layout."""
        weights = layer.weights
        joined = (weights.qkv, weights.output, weights.gate_up, weights.down)
        contents = [
            part for layout, linear in zip(self.linears, joined, strict=True) for part in layout.contents(linear)
        ]
        contents += weights.input_norm, weights.post_attention_norm
        for place, content in zip(self.places(), contents, strict=True):
            if place.size:
                yield place, content.cpu().contiguous().view(torch.uint8).flatten()

    def layer(self, pieces: Sequence[Tensor], rope: Tensor) -> GpuLayer:
        """The layer whose piece lies, or will lie, in the first of `pieces` uint8 [size]; nothing is copied."""
        from engine.kernels.cuda import GpuLayer, GpuWeights

        at = [pieces[0][place.offset : place.offset + place.size] for place in self.places()]
        qkv, output, gate_up, down = (
            layout.linear(at[2 * index], at[2 * index + 1]) for index, layout in enumerate(self.linears)
        )
        input_norm, post_norm = (norm.view(torch.float32) for norm in at[-2:])
        return GpuLayer(self.shape, GpuWeights(qkv, output, gate_up, down, input_norm, post_norm), rope)
