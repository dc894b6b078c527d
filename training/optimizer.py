"""Muon (Jordan et al. 2024) for matrices, AdamW for embeddings and norms; Muon's work is split over the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.exchange import Exchange
from training.model import PRODUCTS, Llama

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz iteration
_ITERATIONS = 5


@dataclass(frozen=True, slots=True)
class Rates:
    """Peak learning rates and the rest of the recipe."""

    muon: float = 0.02
    embedding: float = 0.004
    norm: float = 0.004
    momentum: float = 0.95
    weight_decay: float = 0.02
    clip: float = 1.0


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrix, approximately, by Newton-Schulz; [rows, columns]."""
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.t()
    x = (x / (x.norm() + 1e-7)).to(PRODUCTS)
    for _ in range(_ITERATIONS):
        gram = x @ x.t()
        x = torch.addmm(x, b * gram + c * (gram @ gram), x, beta=a)
    return (x if wide else x.t()).float()


class Optimizer:
    """One step of both optimisers over a Llama's parameters."""

    def __init__(self, model: Llama, rates: Rates, exchange: Exchange) -> None:
        self.rates = rates
        self._exchange = exchange
        named = list(model.named_parameters())
        self._matrices = [p for name, p in named if p.ndim == 2 and name != "embed_tokens"]
        self._parameters = [p for _, p in named]
        self._momenta = [torch.zeros_like(p) for p in self._matrices]
        norms = [p for p in self._parameters if p.ndim == 1]
        groups = [{"params": [model.embed_tokens], "peak": rates.embedding}, {"params": norms, "peak": rates.norm}]
        self._adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=True)
        self._owners = _assign(self._matrices, exchange.workers)

    def step(self, scale: float) -> float:
        """Average gradients over the workers, clip, update at ``scale`` times the peak rates; returns the norm."""
        grads = [p.grad for p in self._parameters if p.grad is not None]
        self._exchange.mean(grads)
        norm = float(torch.nn.utils.get_total_norm(grads))
        if norm > self.rates.clip:
            for grad in grads:
                grad.mul_(self.rates.clip / norm)
        for group in self._adam.param_groups:
            group["lr"] = scale * group["peak"]
        self._adam.step()
        self._muon(scale)
        for parameter in self._parameters:
            parameter.grad = None
        return norm

    @torch.no_grad()
    def _muon(self, scale: float) -> None:
        updates: list[torch.Tensor] = []
        for matrix, momentum, owner in zip(self._matrices, self._momenta, self._owners, strict=True):
            assert matrix.grad is not None
            momentum.lerp_(matrix.grad, 1 - self.rates.momentum)
            if owner == self._exchange.rank:
                updates.append(orthogonalise(matrix.grad.lerp(momentum, self.rates.momentum)))
            else:
                updates.append(torch.empty_like(matrix))
        self._exchange.share(updates, self._owners)
        rate = scale * self.rates.muon
        for matrix, update in zip(self._matrices, updates, strict=True):
            matrix.mul_(1 - rate * self.rates.weight_decay)
            matrix.add_(update, alpha=-rate * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)

    def state_dict(self) -> dict[str, object]:
        """State to resume from."""
        return {"adam": self._adam.state_dict(), "momenta": self._momenta}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Inverse of `state_dict`."""
        self._adam.load_state_dict(state["adam"])  # pyright: ignore[reportArgumentType]
        for mine, saved in zip(self._momenta, state["momenta"], strict=True):  # pyright: ignore[reportArgumentType]
            mine.copy_(saved)


def _assign(matrices: Sequence[torch.Tensor], workers: int) -> list[int]:
    """Give each matrix to the worker with the least work so far."""
    load = [0.0] * workers
    owners: list[int] = []
    for matrix in matrices:
        owner = load.index(min(load))
        load[owner] += min(matrix.shape) * matrix.numel()
        owners.append(owner)
    return owners
