"""The most probable tokens of rows of logits."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from engine.kernels import native, reference


def top_logprobs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids int32 [n, k] and log-probabilities float32 [n, k] of the full softmax, best first; ties: lower id first.

    `logits` float32 [n, V]; 1 <= k <= V.
    """
    rows, vocabulary = logits.shape
    if not 1 <= k <= vocabulary:
        raise ValueError(f"k is {k}: it must be 1 to {vocabulary}")
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


def likeliest(logits: Tensor) -> list[int]:
    """Return the best token of each row of logits [n, V], the lower id of equals.

    Beside the native kernels not by argmax: torch shares that out among threads of its own, which then go on spinning
    for milliseconds on the cores that the next pass needs.
    """
    if logits.device.type == "cpu" and logits.dtype == torch.float32 and native.available():
        best = top_logprobs(logits, 1)[0][:, 0]
    else:
        best = logits.argmax(-1)
    return cast(list[int], best.tolist())  # pyright: ignore[reportUnknownMemberType]
