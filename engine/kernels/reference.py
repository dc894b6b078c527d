"""What the kernels compute, in plain torch: slow, runs anywhere, and defines the results of every fast path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# AutoAWQ's "gemm" packing: the nibbles of an int32, lowest first, hold these columns of eight.
AWQ_COLUMN_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
NO_ZERO_POINT = 8  # checkpoints without zero points are symmetric around 8


def unpack_nibbles(packed: Tensor) -> Tensor:
    """uint8 [R, N] from AWQ's int32 [R, N / 8]."""
    shifts = torch.empty(8, dtype=torch.int32, device=packed.device)
    shifts[list(AWQ_COLUMN_ORDER)] = torch.arange(0, 32, 4, dtype=torch.int32, device=packed.device)
    nibbles = (packed.unsqueeze(-1) >> shifts) & 15  # [R, N / 8, 8]
    return nibbles.flatten(1).to(torch.uint8)


def pack_nibbles(values: Tensor) -> Tensor:
    """AWQ's int32 [R, N / 8] from integers 0..15 [R, N]; the inverse of `unpack_nibbles`."""
    order = torch.tensor(AWQ_COLUMN_ORDER)
    ordered = values.long().view(len(values), -1, 8)[:, :, order]
    words = torch.sum(ordered * 16 ** torch.arange(8), -1)  # unsigned, in 64 bits
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def unpack_awq(qweight: Tensor, qzeros: Tensor | None, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Unsigned weights uint8 [K, N] and zero points uint8 [K / group, N] of an AWQ layer.

    `qweight` int32 [K, N / 8], `qzeros` int32 [K / group, N / 8] or None (all 8), `scales` [K / group, N].
    """
    if qzeros is None:
        zeros = torch.full(tuple(scales.shape), NO_ZERO_POINT, dtype=torch.uint8)
    else:
        zeros = unpack_nibbles(qzeros)
    return unpack_nibbles(qweight), zeros


def dequantize_awq(qweight: Tensor, qzeros: Tensor | None, scales: Tensor) -> Tensor:
    """Float32 [N, K]: w = (q - z) * s, exact."""
    q, zeros = unpack_awq(qweight, qzeros, scales)
    group = q.shape[0] // scales.shape[0]
    centred = q.float() - zeros.float().repeat_interleave(group, 0)
    return (centred * scales.float().repeat_interleave(group, 0)).T.contiguous()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Float32 [M, N] = x [M, K] times weight [N, K] transposed, plus bias [N]."""
    return torch.nn.functional.linear(x.float(), weight.float(), None if bias is None else bias.float())


def int4_linear(
    x: Tensor, qweight: Tensor, qzeros: Tensor | None, scales: Tensor, bias: Tensor | None = None
) -> Tensor:
    """`linear` with the dequantised weights of an AWQ layer."""
    return linear(x, dequantize_awq(qweight, qzeros, scales), bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """X [..., H] / sqrt(mean(x^2) + eps) * weight [H], in float32 (Zhang and Sennrich, arXiv 1910.07467)."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [n, heads, head_dim] by cos and sin [n, head_dim / 2]: first half against second, as Hugging Face."""
    first, second = x.chunk(2, -1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def visible_slots(past: int, first: int, count: int, parents: Sequence[int]) -> Tensor:
    """Which cache slots each new row sees: bool [count, past + first + count].

    All committed slots, the row's own slot (past + its index among uncommitted rows), and its ancestors' slots.
    """
    mask = torch.zeros(count, past + first + count, dtype=torch.bool)
    mask[:, :past] = True
    for row in range(count):
        node = first + row
        while node >= 0:
            mask[row, past + node] = True
            node = parents[node]
    return mask


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Grouped-query attention, float32 [n, heads * head_dim].

    `q` [n, heads, head_dim]; `k`, `v` [kv_heads, slots, head_dim]; `mask` bool [n, slots]. Scale 1 / sqrt(head_dim).
    """
    n, heads, head_dim = q.shape
    per_kv = heads // k.shape[0]
    keys, values = k.float().repeat_interleave(per_kv, 0), v.float().repeat_interleave(per_kv, 0)
    scores = torch.einsum("nhd,hsd->hns", q.float(), keys) * head_dim**-0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("hns,hsd->nhd", weights, values).reshape(n, heads * head_dim)


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """silu(first half) * second half of the last dimension."""
    gate, up = gate_up.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def top_logprobs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most probable ids (int32 [n, k], ties: lower id first) and their full-softmax log-probabilities."""
    logprobs = logits.double().log_softmax(-1)
    order = logits.float().sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return order.to(torch.int32), logprobs.gather(-1, order).float()
