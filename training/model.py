"""A Llama decoder written for fast training on a CPU: fast matrix products over fp32 weights and an fp32 residual.

It computes what transformers' LlamaForCausalLM computes (`export.py` checks the logits). Parameter names are Hugging
Face's without the leading ``model.``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

# What matrix products are fastest in: without the processor's own bf16 instructions bf16 is ten times slower than fp32.
PRODUCTS = torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32

_BLOCKS = 4  # query blocks of causal attention; each sees only the keys up to its end


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of a decoder; RoPE as in Llama 3.1 (theta, then its length-scaling factors)."""

    hidden: int = 256
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 768
    vocabulary: int = 16384
    max_positions: int = 2048
    rms_eps: float = 1e-5
    rope_theta: float = 500000.0
    rope_factor: float = 8.0
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_original: int = 8192


def inverse_frequencies(shape: LlamaShape) -> torch.Tensor:
    """Llama 3.1's scaled inverse frequencies, float32 [head_dim / 2]."""
    exponent = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    inverse = 1.0 / (shape.rope_theta**exponent)
    wavelength = 2 * math.pi / inverse
    low, high = shape.rope_original / shape.rope_low, shape.rope_original / shape.rope_high
    smooth = (shape.rope_original / wavelength - shape.rope_low) / (shape.rope_high - shape.rope_low)
    blended = (1 - smooth) * inverse / shape.rope_factor + smooth * inverse
    return torch.where(wavelength > low, inverse / shape.rope_factor, torch.where(wavelength < high, inverse, blended))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply RoPE to x [batch, tokens, heads, head_dim]; cos and sin [tokens, 1, head_dim / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: int) -> torch.Tensor:
    """Grouped causal attention, query block by query block (on a CPU over twice as fast as the fused op in training).

    q [batch, tokens, kv_heads * group, d]; k, v [batch, tokens, kv_heads, d]; returns q's shape.
    """
    batch, tokens, _, dim = q.shape
    kv_heads = k.shape[2]
    queries = q.view(batch, tokens, kv_heads, group, dim).permute(0, 2, 3, 1, 4)  # [b, kv, g, t, d]
    keys = k.transpose(1, 2).reshape(batch * kv_heads, tokens, dim)
    values = v.transpose(1, 2).reshape(batch * kv_heads, tokens, dim)
    size = -(-tokens // _BLOCKS)
    outputs: list[torch.Tensor] = []
    for begin in range(0, tokens, size):
        end = min(begin + size, tokens)
        rows = end - begin
        block = queries[:, :, :, begin:end].reshape(batch * kv_heads, group * rows, dim)
        visible = torch.zeros(rows, end, dtype=q.dtype)
        visible[:, begin:] = torch.full((rows, rows), float("-inf"), dtype=q.dtype).triu(1)
        mask = visible.repeat(group, 1)
        scores = torch.baddbmm(mask, block, keys[:, :end].transpose(1, 2), alpha=dim**-0.5)
        mixed = torch.bmm(torch.softmax(scores, dim=-1), values[:, :end])
        outputs.append(mixed.view(batch, kv_heads, group, rows, dim))
    return torch.cat(outputs, dim=3).permute(0, 3, 1, 2, 4).reshape(batch, tokens, kv_heads * group, dim)


class Layer(nn.Module):
    """One decoder layer; weights [out, in] in fp32, products in ``dtype``."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        hidden, query, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.input_layernorm = nn.Parameter(torch.ones(hidden))
        self.post_attention_layernorm = nn.Parameter(torch.ones(hidden))
        self.q_proj = _matrix(query, hidden)
        self.k_proj = _matrix(kv, hidden)
        self.v_proj = _matrix(kv, hidden)
        self.o_proj = nn.Parameter(torch.zeros(hidden, query))
        self.gate_proj = _matrix(shape.intermediate, hidden)
        self.up_proj = _matrix(shape.intermediate, hidden)
        self.down_proj = nn.Parameter(torch.zeros(hidden, shape.intermediate))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Map x fp32 [batch, tokens, hidden] -> the same shape."""
        s, dtype = self.shape, cos.dtype
        batch, tokens, _ = x.shape
        h = F.rms_norm(x, (s.hidden,), self.input_layernorm, s.rms_eps).to(dtype)
        weights = torch.cat((self.q_proj, self.k_proj, self.v_proj)).to(dtype)
        qkv = F.linear(h, weights).view(batch, tokens, s.heads + 2 * s.kv_heads, s.head_dim)
        rotated = rotate(qkv[:, :, : s.heads + s.kv_heads], cos, sin)
        q, k = rotated[:, :, : s.heads], rotated[:, :, s.heads :]
        mixed = causal_attention(q, k, qkv[:, :, s.heads + s.kv_heads :], s.heads // s.kv_heads)
        x = x + F.linear(mixed.reshape(batch, tokens, -1), self.o_proj.to(dtype))
        h = F.rms_norm(x, (s.hidden,), self.post_attention_layernorm, s.rms_eps).to(dtype)
        gate = F.linear(h, self.gate_proj.to(dtype))
        up = F.linear(h, self.up_proj.to(dtype))
        return x + F.linear(F.silu(gate) * up, self.down_proj.to(dtype))


class Llama(nn.Module):
    """A decoder with tied embeddings."""

    def __init__(self, shape: LlamaShape, dtype: torch.dtype = PRODUCTS) -> None:
        super().__init__()
        self.shape = shape
        self.dtype = dtype
        self.embed_tokens = nn.Parameter(torch.randn(shape.vocabulary, shape.hidden) * 0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))

    def hidden_states(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids int64 [batch, tokens] to normed final hidden states in ``dtype`` [batch, tokens, hidden]."""
        angles = torch.outer(torch.arange(ids.shape[1]).float(), inverse_frequencies(self.shape))
        cos, sin = angles.cos()[:, None].to(self.dtype), angles.sin()[:, None].to(self.dtype)
        x = F.embedding(ids, self.embed_tokens)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.rms_norm(x, (self.shape.hidden,), self.norm, self.shape.rms_eps).to(self.dtype)

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits in ``dtype`` [batch, tokens, vocabulary]."""
        return F.linear(self.hidden_states(ids), self.embed_tokens.to(self.dtype))


def _matrix(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * (0.6 / math.sqrt(columns)))


def grow(model: Llama, layers: int) -> Llama:
    """A deeper model that computes the same function: every layer is followed by copies whose outputs are zero."""
    old = len(model.layers)
    if layers % old:
        raise ValueError(f"cannot grow {old} layers to {layers}: not a multiple")
    deeper = Llama(replace(model.shape, layers=layers), model.dtype)
    source, state = model.state_dict(), {}
    for name in deeper.state_dict():
        if not name.startswith("layers."):
            state[name] = source[name]
            continue
        _, index, leaf = name.split(".")
        origin, copy = divmod(int(index), layers // old)
        value = source[f"layers.{origin}.{leaf}"]
        state[name] = torch.zeros_like(value) if copy and leaf in ("o_proj", "down_proj") else value.clone()
    deeper.load_state_dict(state)
    return deeper
