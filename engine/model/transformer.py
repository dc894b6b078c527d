"""One decoder for every family: Llama's architecture, whose variants are fields of ModelConfig.

A pass is a list of rows. Row i holds `tokens[i]` and continues row `parents[i]` of the cache's uncommitted rows, or the
last committed position (-1). It sees all committed positions, its ancestors and itself, so that a prompt, one new token
and a tree of guesses are the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import Cancelled, TreelineError
from engine.kernels import cpu
from engine.model.config import ModelConfig
from engine.model.kv_cache import KVCache
from engine.model.linear import Projection


def never() -> bool:
    """Return False: the pass that nobody cancels."""
    return False


@dataclass(slots=True)
class Step:
    """What the layers of one pass share: `count` new rows behind `first` uncommitted and `past` committed ones.

    `cos`, `sin`: float32 [count, head_dim / 2], the rotations of the new rows.
    """

    past: int
    first: int
    count: int
    cos: Tensor
    sin: Tensor
    cache: KVCache
    _mask: Tensor | None = None
    _native: cpu.Step | None = None

    def mask(self) -> Tensor:
        """Which slots each new row sees: bool [count, past + first + count]; built once, on the cache's device."""
        if self._mask is None:
            past = torch.ones(self.count, self.past, dtype=torch.bool)
            mask = torch.cat((past, self.cache.ancestors(self.first)), dim=1)
            self._mask = mask.to(self.cache.data.device)
        return self._mask

    def native(self) -> cpu.Step:
        """Return the same for the native kernels, which need no mask."""
        if self._native is None:
            parents = torch.tensor(self.cache.parents, dtype=torch.int32)
            self._native = cpu.Step(self.past, self.first, self.count, parents, self.cos, self.sin)
        return self._native


class Layer(Protocol):
    """A decoder layer: DecoderLayer in plain torch, or FusedLayer in one native call."""

    def __call__(self, hidden: Tensor, step: Step, cache: Tensor) -> Tensor:
        """Map hidden [count, hidden_size], which may be overwritten.

        `cache`: the layer's part of the KV cache [2, kv_heads, capacity, head_dim].
        """
        ...


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Attention and gated MLP, each behind an RMSNorm and added to the residual stream."""

    config: ModelConfig
    input_layernorm: Tensor
    q_proj: Projection
    k_proj: Projection
    v_proj: Projection
    o_proj: Projection
    post_attention_layernorm: Tensor
    gate_proj: Projection
    up_proj: Projection
    down_proj: Projection

    def __call__(self, hidden: Tensor, step: Step, cache: Tensor) -> Tensor:
        """See Layer."""
        hidden = hidden + self._attention(rms_norm(hidden, self.input_layernorm, self.config.rms_norm_eps), step, cache)
        x = rms_norm(hidden, self.post_attention_layernorm, self.config.rms_norm_eps)
        return hidden + self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))

    def _attention(self, x: Tensor, step: Step, cache: Tensor) -> Tensor:
        config, rows = self.config, len(x)
        kv_heads, head_dim = config.num_key_value_heads, config.head_dim
        queries = rotate(self.q_proj(x).view(rows, -1, head_dim), step)  # [rows, heads, head_dim]
        start = step.past + step.first
        end = start + rows
        cache[0, :, start:end] = rotate(self.k_proj(x).view(rows, kv_heads, head_dim), step).transpose(0, 1)
        cache[1, :, start:end] = self.v_proj(x).view(rows, kv_heads, head_dim).transpose(0, 1)
        # The query heads of a group become rows: one attention per key/value head, no copies of keys and values.
        folded = queries.view(rows, kv_heads, -1, head_dim).permute(1, 2, 0, 3).reshape(1, kv_heads, -1, head_dim)
        group = config.num_attention_heads // kv_heads
        mask = step.mask().repeat(group, 1)  # [group * rows, end]
        keys, values = cache[:, None, :, :end]
        mixed = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
        return self.o_proj(mixed.view(kv_heads, group, rows, head_dim).permute(2, 0, 1, 3).reshape(rows, -1))


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """The same in one call of the CPU's native kernels, for packed weights."""

    layer: cpu.NativeLayer

    def __call__(self, hidden: Tensor, step: Step, cache: Tensor) -> Tensor:
        """See Layer."""
        self.layer(hidden, step.native(), cache[0], cache[1])
        return hidden


@dataclass(slots=True)
class Transformer:
    """Embedding, layers, final norm and output projection of one checkpoint, be it target or drafter."""

    config: ModelConfig
    embedding: Tensor  # [vocab, hidden]
    layers: Sequence[Layer]
    norm: Tensor
    head: Projection
    rope: Tensor  # [2, max_position_embeddings, head_dim / 2] cos and sin
    dtype: torch.dtype

    def new_cache(self, capacity: int) -> KVCache:
        """Return an empty KV cache for `capacity` positions; memory is touched only as it fills."""
        return KVCache(self.config, capacity, self.dtype, self.embedding.device)

    def forward(
        self,
        tokens: Sequence[int],
        parents: Sequence[int],
        cache: KVCache,
        wanted: slice,
        cancelled: Callable[[], bool] = never,
    ) -> Tensor:
        """Run one pass and return the logits of the rows `wanted`: float32 [rows wanted, vocab].

        The rows stay uncommitted in `cache`. Raises Cancelled, with all of the cache's uncommitted rows discarded, when
        `cancelled()` is true before a layer; TreelineError when the cache or the model's context is too short.
        """
        step = self._step(parents, cache)
        hidden = functional.embedding(torch.tensor(tokens, device=self.embedding.device), self.embedding).to(self.dtype)
        for index, layer in enumerate(self.layers):
            if cancelled():
                cache.discard()
                raise Cancelled
            hidden = layer(hidden, step, cache.data[index])
        hidden = hidden[wanted]
        if isinstance(self.head, cpu.PackedLinear):
            return self.head(hidden, self.norm, self.config.rms_norm_eps)
        return self.head(rms_norm(hidden, self.norm, self.config.rms_norm_eps)).float()

    def _step(self, parents: Sequence[int], cache: KVCache) -> Step:
        first = cache.append(parents)
        depths = cache.depths[first:]
        if depths and cache.length + max(depths) >= self.rope.shape[1]:
            cache.discard()
            raise TreelineError(f"the model's context ends at {self.rope.shape[1]} tokens: ask for fewer tokens")
        positions = torch.tensor(depths, dtype=torch.int64, device=self.rope.device) + cache.length
        cos, sin = self.rope[:, positions]
        return Step(cache.length, first, len(parents), cos, sin, cache)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale rows [n, hidden] to unit mean square, in float32, then by `weight`. Source: arXiv 1910.07467."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rotate(x: Tensor, step: Step) -> Tensor:
    """Apply rotary position embedding to x [rows, heads, head_dim]; dimension j pairs with j + head_dim / 2."""
    cos, sin = step.cos[:, None].to(x.dtype), step.sin[:, None].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rope_table(config: ModelConfig, positions: int) -> Tensor:
    """Return cos and sin for every position: float32 [2, positions, head_dim / 2]."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), config.rope.inverse_frequencies(config.head_dim))
    return torch.stack((angles.cos(), angles.sin()))
