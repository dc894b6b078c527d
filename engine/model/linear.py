"""Linear layers of a checkpoint: dense, or AWQ-quantised; which one is decided by the checkpoint, not by the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import TreelineError
from engine.kernels import cpu, reference
from engine.model.config import Awq, ModelConfig
from engine.model.weights import Checkpoint


class Projection(Protocol):
    """Anything that maps [rows, in_features] to [rows, out_features]."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the projected rows."""
        ...


@dataclass(frozen=True, slots=True)
class Linear:
    """A dense layer: `weight` [out, in], `bias` [out] or None."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x @ weight.T + bias."""
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class LinearLoader:
    """Reads the linear layers of one checkpoint.

    `packed`: for the CPU's integer kernels, AWQ layers as they are and dense layers in 8 bits; otherwise AWQ layers are
    dequantised to `dtype`.
    """

    checkpoint: Checkpoint
    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    packed: bool

    def load(self, name: str, out_features: int, in_features: int, bias: bool) -> Projection:
        """Read layer `name` (without ".weight"). Raises TreelineError for a tensor absent or of another shape."""
        bias_tensor = self.dense(f"{name}.bias", [out_features]) if bias else None
        awq = self.config.awq
        if awq and awq.covers(name):
            return self._awq(name, out_features, in_features, awq, bias_tensor)
        weight = self.checkpoint.tensor(f"{name}.weight", [out_features, in_features])
        if self.packed:
            return cpu.PackedLinear.from_dense(weight, bias_tensor)
        return Linear(self.cast(weight), bias_tensor)

    def embedding(self) -> Tensor:
        """Return the token embedding [vocab, hidden] in the checkpoint's own type: few rows are used at a time."""
        shape = [self.config.vocab_size, self.config.hidden_size]
        return self.checkpoint.tensor("model.embed_tokens.weight", shape).to(self.device)

    def head(self, outputs: int) -> Projection:
        """Return the output projection to the first `outputs` tokens: the embedding itself where the model ties them.

        On the packed path it has 8 bits.
        """
        if self.config.tie_word_embeddings:
            weight = self.embedding()
        else:
            weight = self.checkpoint.tensor("lm_head.weight", [self.config.vocab_size, self.config.hidden_size])
        weight = weight[:outputs]
        return cpu.PackedLinear.from_dense(weight) if self.packed else Linear(self.cast(weight))

    def dense(self, name: str, shape: list[int]) -> Tensor:
        """Read a floating-point tensor in the compute type."""
        return self.cast(self.checkpoint.tensor(name, shape))

    def cast(self, tensor: Tensor) -> Tensor:
        """Return `tensor` in the compute type and on the device; the mapped file itself where nothing changes."""
        return tensor.to(device=self.device, dtype=self.dtype)

    def _awq(self, name: str, out_features: int, in_features: int, awq: Awq, bias: Tensor | None) -> Projection:
        for size, unit, what in ((in_features, awq.group_size, "inputs"), (out_features, 8, "outputs")):
            if size % unit:
                where = f"{self.checkpoint.directory}: {name}"
                raise TreelineError(f"{where} has {size} {what}, AWQ needs a multiple of {unit}: correct config.json")
        groups, columns = in_features // awq.group_size, out_features // 8
        qweight = self.checkpoint.tensor(f"{name}.qweight", [in_features, columns], (torch.int32,))
        scales = self.checkpoint.tensor(f"{name}.scales", [groups, out_features], (torch.float16, torch.bfloat16))
        qzeros = None
        if awq.zero_point or self.checkpoint.has(f"{name}.qzeros"):
            qzeros = self.checkpoint.tensor(f"{name}.qzeros", [groups, columns], (torch.int32,))
        if self.packed:
            return cpu.PackedLinear.from_awq(qweight, qzeros, scales, awq.group_size, bias)
        return Linear(self.cast(reference.dequantize_awq(qweight, qzeros, scales)), bias)
