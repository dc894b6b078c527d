"""Linear layers of a checkpoint: dense, or AWQ-quantised; which one is decided by the checkpoint, not by the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import TreelineError
from engine.kernels import cpu, reference
from engine.model.config import Awq, ModelConfig
from engine.model.weights import Checkpoint

if TYPE_CHECKING:
    from engine.kernels.cuda import DenseLinear


class Projection(Protocol):
    """Anything that maps [rows, in_features] to [rows, out_features]."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the projected rows."""
        ...


class Head(Protocol):
    """The output projection of kernels that apply the final norm as well."""

    def __call__(self, x: Tensor, norm: Tensor, eps: float) -> Tensor:
        """Return logits float32 [rows, outputs] of RMSNorm(x) * norm."""
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

    `packed`: for the CPU's integer kernels, AWQ layers as they are and dense layers in 8 bits. `gpu_type`: for a GPU's
    kernels, AWQ layers as they are and dense layers in this type, which the activations have too. Without either, AWQ
    layers are dequantised to `dtype`.
    """

    checkpoint: Checkpoint
    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    packed: bool
    gpu_type: torch.dtype | None = None

    def load(self, name: str, out_features: int, in_features: int, bias: bool) -> Projection:
        """Read layer `name` (without ".weight"). Raises TreelineError for a tensor absent or of another shape."""
        bias_tensor = self.dense(f"{name}.bias", [out_features]) if bias else None
        awq = self.config.awq
        if awq and awq.covers(name):
            return self._awq(name, out_features, in_features, awq, bias_tensor)
        weight = self.checkpoint.tensor(f"{name}.weight", [out_features, in_features])
        if self.packed:
            return cpu.PackedLinear.from_dense(weight, bias_tensor)
        if self.gpu_type:
            return self._gpu_dense(weight, bias_tensor)
        return Linear(self.cast(weight), bias_tensor)

    def embedding(self) -> Tensor:
        """Return the token embedding [vocab, hidden] in the checkpoint's own type: few rows are used at a time.

        For a GPU's kernels it stays in the mapped file: those rows are sent over.
        """
        shape = [self.config.vocab_size, self.config.hidden_size]
        weight = self.checkpoint.tensor("model.embed_tokens.weight", shape)
        return weight if self.gpu_type else weight.to(self.device)

    def head(self, outputs: int) -> Linear | Head:
        """Return the output projection to the first `outputs` tokens: the embedding itself where the model ties them.

        On the packed path it has 8 bits.
        """
        if self.config.tie_word_embeddings:
            weight = self.embedding()
        else:
            weight = self.checkpoint.tensor("lm_head.weight", [self.config.vocab_size, self.config.hidden_size])
        weight = weight[:outputs]
        if self.gpu_type:
            from engine.kernels.cuda import GpuHead

            return GpuHead(self._gpu_dense(weight, None))
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
        if self.gpu_type:
            from engine.kernels.cuda import Int4Linear

            return Int4Linear.from_awq(qweight, qzeros, scales, bias, self.device, self.gpu_type)
        return Linear(self.cast(reference.dequantize_awq(qweight, qzeros, scales)), bias)

    def _gpu_dense(self, weight: Tensor, bias: Tensor | None) -> DenseLinear:
        from engine.kernels.cuda import DenseLinear

        return DenseLinear(weight.to(self.device, self.gpu_type), bias)
