"""One decoder for every family: Llama's architecture, whose variants are fields of ModelConfig.

A pass is a list of rows. Row i holds `tokens[i]` and continues row `parents[i]` of the cache's uncommitted rows, or the
last committed position (-1). It sees all committed positions, its ancestors and itself, so that a prompt, one new token
and a tree of guesses are the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import Cancelled, TreelineError
from engine.kernels import cpu
from engine.kernels.device import memory_explained
from engine.model.config import ModelConfig
from engine.model.kv_cache import KVCache, LayerCache, PlainCache
from engine.model.linear import Head, Linear, Projection

if TYPE_CHECKING:
    from engine.kernels.cuda import GpuCache, GpuLayer, PassRows, PassState, Recordings


def never() -> bool:
    """Return False: the pass that nobody cancels."""
    return False


@dataclass(slots=True)
class Step:
    """What the layers of one pass share: `count` new rows behind `first` uncommitted and `past` committed ones.

    `positions` of the new rows; `rope` float32 [2, positions, head_dim / 2], cos and sin.
    """

    past: int
    first: int
    positions: Sequence[int]
    rope: Tensor
    cache: KVCache
    _mask: Tensor | None = None
    _rotation: Tensor | None = None
    _native: cpu.Step | None = None
    _gpu: PassState | None = None

    def mask(self) -> Tensor:
        """Which slots each new row sees: bool [count, past + first + count]; built once, on the rotations' device."""
        if self._mask is None:
            past = torch.ones(len(self.positions), self.past, dtype=torch.bool)
            mask = torch.cat((past, self.cache.ancestors(self.first)), dim=1)
            self._mask = mask.to(self.rope.device)
        return self._mask

    def rotation(self) -> Tensor:
        """Cos and sin of the new rows: float32 [2, count, head_dim / 2]."""
        if self._rotation is None:
            self._rotation = self.rope[:, torch.tensor(self.positions, device=self.rope.device)]
        return self._rotation

    def native(self) -> cpu.Step:
        """Return the same for the native kernels, which need no mask."""
        if self._native is None:
            self._native = cpu.Step(self.past, self.first, self.cache.parents, self.positions, self.rope)
        return self._native

    def rows(self) -> PassRows:
        """Return the same as numbers for the GPU's kernels, which need no mask either."""
        from engine.kernels.cuda import PassRows

        return PassRows.of(self.past, self.first, self.cache.parents, self.positions)

    def on_gpu(self) -> PassState:
        """Return these numbers on the rotations' device."""
        if self._gpu is None:
            self._gpu = self.rows().on(self.rope.device)
        return self._gpu


class Layer(Protocol):
    """A decoder layer: DecoderLayer in plain torch, FusedLayer in one native call, DeviceLayer in a GPU's kernels."""

    def __call__(self, hidden: Tensor, step: Step, cache: Any) -> Tensor:
        """Map hidden [count, hidden_size], which may be overwritten; `cache` is one that `new_cache` made."""
        ...

    def new_cache(self, capacity: int) -> LayerCache:
        """Return an empty cache of the kind that this layer reads."""
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

    def __call__(self, hidden: Tensor, step: Step, cache: PlainCache) -> Tensor:
        """See Layer."""
        hidden = hidden + self._attention(rms_norm(hidden, self.input_layernorm, self.config.rms_norm_eps), step, cache)
        x = rms_norm(hidden, self.post_attention_layernorm, self.config.rms_norm_eps)
        return hidden + self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))

    def new_cache(self, capacity: int) -> PlainCache:
        """See Layer."""
        norm = self.input_layernorm
        return PlainCache.empty(self.config, capacity, norm.dtype, norm.device)

    def _attention(self, x: Tensor, step: Step, cache: PlainCache) -> Tensor:
        config, rows, data = self.config, len(x), cache.data
        kv_heads, head_dim = config.num_key_value_heads, config.head_dim
        queries = rotate(self.q_proj(x).view(rows, -1, head_dim), step)  # [rows, heads, head_dim]
        start = step.past + step.first
        end = start + rows
        data[0, :, start:end] = rotate(self.k_proj(x).view(rows, kv_heads, head_dim), step).transpose(0, 1)
        data[1, :, start:end] = self.v_proj(x).view(rows, kv_heads, head_dim).transpose(0, 1)
        # The query heads of a group become rows: one attention per key/value head, no copies of keys and values.
        folded = queries.view(rows, kv_heads, -1, head_dim).permute(1, 2, 0, 3).reshape(1, kv_heads, -1, head_dim)
        group = config.num_attention_heads // kv_heads
        mask = step.mask().repeat(group, 1)  # [group * rows, end]
        keys, values = data[:, None, :, :end]
        mixed = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
        return self.o_proj(mixed.view(kv_heads, group, rows, head_dim).permute(2, 0, 1, 3).reshape(rows, -1))


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """The same in one call of the CPU's native kernels, for packed weights."""

    layer: cpu.NativeLayer

    def __call__(self, hidden: Tensor, step: Step, cache: cpu.NativeCache) -> Tensor:
        """See Layer."""
        self.layer(hidden, step.native(), cache)
        return hidden

    def new_cache(self, capacity: int) -> cpu.NativeCache:
        """See Layer."""
        shape = self.layer.shape
        return cpu.NativeCache(shape.num_key_value_heads, shape.head_dim, capacity)


@dataclass(frozen=True, slots=True)
class DeviceLayer:
    """The same on a GPU, in Triton's kernels. Calls return before they are done."""

    layer: GpuLayer

    def __call__(self, hidden: Tensor, step: Step, cache: GpuCache) -> Tensor:
        """See Layer."""
        cache.reserve(step.past + step.first + len(step.positions))
        self.layer(hidden, step.on_gpu(), cache)
        return hidden

    def new_cache(self, capacity: int) -> GpuCache:
        """See Layer."""
        return self.layer.empty_cache(capacity)


@dataclass(slots=True)
class Transformer:
    """Embedding, layers, final norm and output projection of one checkpoint, be it target or drafter.

    `recordings`: runs passes of few rows all at once, where the layers are a GPU's. Such a pass is cancelled before it
    begins or not at all.
    """

    config: ModelConfig
    embedding: Tensor  # [vocab, hidden], on the CPU where the layers are a GPU's kernels
    layers: Sequence[Layer]
    norm: Tensor
    head: Linear | Head
    rope: Tensor  # [2, max_position_embeddings, head_dim / 2] cos and sin
    dtype: torch.dtype
    recordings: Recordings | None = None
    streamed: bool = False  # layers come from slower memory while a pass runs

    @property
    def fused(self) -> bool:
        """Whether the layers run in native kernels, so that torch has next to nothing to compute."""
        return isinstance(self.layers[0], FusedLayer)

    def new_cache(self, capacity: int) -> KVCache:
        """Return an empty KV cache for `capacity` positions; memory is touched only as it fills."""
        # by index: to iterate over layers that are streamed is to read them
        return KVCache([self.layers[index].new_cache(capacity) for index in range(len(self.layers))], capacity)

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
        with memory_explained(f"a pass of {len(tokens)} rows did not fit"):
            ids = torch.tensor(tokens, device=self.embedding.device)
            hidden = functional.embedding(ids, self.embedding).to(self.norm.device, self.dtype)
            if self.recordings and not cancelled():
                logits = self.recordings.run(hidden, step.rows(), cache.layers)
                if logits is not None:
                    return logits[wanted]
            for index, layer in enumerate(self.layers):
                if cancelled():
                    cache.discard()
                    raise Cancelled
                hidden = layer(hidden, step, cache.layers[index])
            return self._logits(hidden[wanted])

    def _logits(self, hidden: Tensor) -> Tensor:
        if isinstance(self.head, Linear):
            return self.head(rms_norm(hidden, self.norm, self.config.rms_norm_eps)).float()
        return self.head(hidden, self.norm, self.config.rms_norm_eps)

    def _step(self, parents: Sequence[int], cache: KVCache) -> Step:
        first = cache.append(parents)
        depths = cache.depths[first:]
        if depths and cache.length + max(depths) >= self.rope.shape[1]:
            cache.discard()
            raise TreelineError(f"the model's context ends at {self.rope.shape[1]} tokens: ask for fewer tokens")
        positions = [cache.length + depth for depth in depths]
        return Step(cache.length, first, positions, self.rope, cache)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale rows [n, hidden] to unit mean square, in float32, then by `weight`. Source: arXiv 1910.07467."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rotate(x: Tensor, step: Step) -> Tensor:
    """Apply rotary position embedding to x [rows, heads, head_dim]; dimension j pairs with j + head_dim / 2."""
    cos, sin = step.rotation()[:, :, None].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rope_table(config: ModelConfig, positions: int) -> Tensor:
    """Return cos and sin for every position: float32 [2, positions, head_dim / 2]."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), config.rope.inverse_frequencies(config.head_dim))
    return torch.stack((angles.cos(), angles.sin()))
