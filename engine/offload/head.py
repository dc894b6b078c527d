"""The output projection of a streamed target: cut into pieces, which are the last ones of a pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.kernels.packed import PackedLinear
from engine.kernels.weights import NativeWeights, Shape, block_bytes
from engine.offload.stream import StreamedLayers


def projection(shape: Shape, memory: Tensor) -> PackedLinear:
    """The piece of the output projection that lies, or will lie, in `memory`; nothing is copied."""
    return PackedLinear(shape, NativeWeights(shape, memory[: block_bytes(shape)]))


class CutHead:
    """An output projection whose pieces are all resident."""

    def __init__(self, pieces: Sequence[PackedLinear]) -> None:
        """`pieces` one after another make the vocabulary."""
        self._pieces = pieces

    def __call__(self, x: Tensor, norm: Tensor, eps: float) -> Tensor:
        """Logits float32 [rows, outputs] of RMSNorm(x) * norm."""
        return torch.cat([piece(x, norm, eps) for piece in self._pieces], 1)


class StreamedHead:
    """An output projection of which some pieces come behind the layers; to be called once after each pass over them."""

    def __init__(self, layers: StreamedLayers) -> None:
        """Take the pieces that follow those of `layers` in their store."""
        self._layers = layers
        layout = layers.store.layout
        self._first = sum(len(layer.sizes) for layer in layout.layers)
        self._shapes = layout.head_pieces
        self._outputs = layout.config.vocab_size
        self._made: dict[tuple[int, tuple[int, ...]], PackedLinear] = {}

    def __call__(self, x: Tensor, norm: Tensor, eps: float) -> Tensor:
        """Logits float32 [rows, outputs] of RMSNorm(x) * norm."""
        logits = torch.empty(len(x), self._outputs)
        start = 0
        for index, shape in enumerate(self._shapes):
            streamed = self._layers.is_streamed(self._first + index)
            with self._layers.turn(len(self._layers) + index, int(streamed)) as slots:
                if len(x):
                    logits[:, start : start + shape.out_features] = self._piece(index, slots)(x, norm, eps)
            start += shape.out_features
        return logits

    def _piece(self, index: int, slots: tuple[int, ...]) -> PackedLinear:
        if (index, slots) not in self._made:
            memory = self._layers.piece(self._first + index, iter(slots))
            self._made[index, slots] = projection(self._shapes[index], memory)
        return self._made[index, slots]
