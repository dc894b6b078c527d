"""The most probable tokens of rows of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels import native, reference


def top_logprobs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids int32 [n, k] and log-probabilities float32 [n, k] of the full softmax, best first; ties: lower id first.

    `logits` float32 [n, V]; 1 <= k <= V. On a GPU ties have no order.
    """
    rows, vocabulary = logits.shape
    if not 1 <= k <= vocabulary:
        raise ValueError(f"k is {k}: it must be 1 to {vocabulary}")
    if logits.device.type != "cpu":
        best, ids = logits.topk(k)
        return ids.to(torch.int32), best - logits.logsumexp(-1, keepdim=True)
    if not native.available():
        return reference.top_logprobs(logits, k)
    logits = logits.contiguous()
    if logits.dtype != torch.float32:
        raise ValueError(f"logits must be float32, not {logits.dtype}")
    ids = torch.empty(rows, k, dtype=torch.int32)
    logprobs = torch.empty(rows, k)
    native.required().tl_top_logprobs(
        logits.data_ptr(), rows, vocabulary, vocabulary, k, ids.data_ptr(), logprobs.data_ptr(), native.threads()
    )
    return ids, logprobs
