"""Cross-entropy over a large vocabulary, in slices that stay in cache; gradients are computed on the way forward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

PAD_ID = 4  # <|fim_pad|>, fifth of the special tokens
_ROWS = 256  # rows of logits at a time


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Hidden bf16 [n, d], weight fp32 [classes, d], bias fp32 [classes], targets int64 [n] -> mean loss."""
        low = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        total = hidden.new_zeros((), dtype=torch.float32)
        count = hidden.shape[0]
        for begin in range(0, count, _ROWS):
            rows = hidden[begin : begin + _ROWS]
            goal = targets[begin : begin + _ROWS, None]
            scores = (rows @ low.t()).float().add_(bias)
            peak = scores.amax(dim=-1, keepdim=True)
            total -= (scores.gather(1, goal) - peak).sum()
            probabilities = scores.sub_(peak).exp_()
            mass = probabilities.sum(dim=-1, keepdim=True)
            total += mass.log().sum()
            probabilities.mul_(mass.reciprocal() / count)
            probabilities.scatter_add_(1, goal, torch.full_like(mass, -1.0 / count))
            grad = probabilities.to(hidden.dtype)
            grad_hidden[begin : begin + _ROWS] = grad @ low
            grad_weight += grad.t() @ rows
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None


def cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of ``softmax(hidden @ weight.T)``; hidden [..., d], targets of its leading shape."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    bias = torch.zeros(weight.shape[0])
    return _ChunkedCrossEntropy.apply(flat, weight, bias, targets.reshape(-1))  # pyright: ignore[reportReturnType]


def scored(hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop the positions whose target is ``<|fim_pad|>``; hidden [rows, length, d] -> [n, d], targets -> [n]."""
    keep = targets != PAD_ID
    return hidden[keep], targets[keep]


def frequent_classes(ids: torch.Tensor, vocabulary: int, count: int) -> torch.Tensor:
    """The ``count`` most frequent token ids of a sample of any shape; int64 [count]."""
    return torch.bincount(ids.flatten(), minlength=vocabulary).topk(count).indices


@dataclass(frozen=True, slots=True)
class SampledVocabulary:
    """Importance-sampled softmax (Jean et al. 2015).

    Frequent classes and the batch's own targets always take part; ``extra`` of the remaining ones are drawn at random
    and stand for all of them.
    """

    frequent: torch.Tensor  # int64 [f]
    extra: int

    def draw(
        self, vocabulary: int, targets: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pick the classes, int64 [classes], and the log of how many each stands for, fp32 [classes]."""
        always = torch.zeros(vocabulary, dtype=torch.bool)
        always[self.frequent] = True
        always[targets.reshape(-1)] = True
        rest = (~always).nonzero()[:, 0]
        drawn = rest[torch.randperm(rest.numel(), generator=generator)[: self.extra]]
        kept = always.nonzero()[:, 0]
        classes = torch.cat((kept, drawn))
        bias = torch.zeros(classes.numel())
        bias[kept.numel() :] = math.log(rest.numel() / max(1, drawn.numel()))
        return classes, bias

    def cross_entropy(
        self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Estimate `cross_entropy` at a fraction of its cost; the same arguments, and the draw's generator."""
        classes, bias = self.draw(weight.shape[0], targets, generator)
        place = torch.zeros(weight.shape[0], dtype=torch.int64)
        place[classes] = torch.arange(classes.numel())
        flat = hidden.reshape(-1, hidden.shape[-1])
        mapped = place[targets.reshape(-1)]
        return _ChunkedCrossEntropy.apply(flat, weight[classes], bias, mapped)  # pyright: ignore[reportReturnType]


class _ChunkedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        teacher: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Mean KL(teacher || student); ``teacher``: bf16 hidden states [n, d] and output weights [classes, d]."""
        low, (teacher_hidden, teacher_weight) = weight.to(hidden.dtype), teacher
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        total = hidden.new_zeros((), dtype=torch.float32)
        for begin in range(0, hidden.shape[0], _ROWS):
            rows = hidden[begin : begin + _ROWS]
            wanted = ((teacher_hidden[begin : begin + _ROWS] @ teacher_weight.t()).float() + bias).log_softmax(dim=-1)
            offered = ((rows @ low.t()).float() + bias).log_softmax(dim=-1)
            probabilities = wanted.exp()
            total += (probabilities * (wanted - offered)).sum()
            grad = offered.exp_().sub_(probabilities).mul_(1.0 / hidden.shape[0]).to(hidden.dtype)
            grad_hidden[begin : begin + _ROWS] = grad @ low
            grad_weight += grad.t() @ rows
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total / hidden.shape[0]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None


def divergence(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, teacher: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Mean KL(teacher || student) in nats over the classes of ``weight`` [classes, d]; ``bias`` as `draw` returns it.

    ``hidden`` [..., d] are the student's hidden states, ``teacher`` the teacher's hidden states and output weights.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    pair = (teacher[0].reshape(-1, teacher[0].shape[-1]), teacher[1])
    return _ChunkedDivergence.apply(flat, weight, bias, pair)  # pyright: ignore[reportReturnType]
