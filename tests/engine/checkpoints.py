"""Small random checkpoints that transformers writes, and transformers' own logits for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from engine.model.kv_cache import KVCache
from engine.model.transformer import Transformer

VOCABULARY = 160
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 100000.0, "factor": 4.0}  # as DeepSeek-Coder
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def llama(**changes: Any) -> PreTrainedConfig:
    settings: dict[str, Any] = SHAPE | changes
    return LlamaConfig(**settings)


def qwen2(**changes: Any) -> PreTrainedConfig:
    settings: dict[str, Any] = SHAPE | {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}} | changes
    return Qwen2Config(**settings)


def mistral(**changes: Any) -> PreTrainedConfig:
    settings: dict[str, Any] = SHAPE | {"sliding_window": None} | changes
    return MistralConfig(**settings)


# Every family, and within a family every setting that a published checkpoint of it uses.
VARIANTS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": llama,
    "llama3-rope": lambda: llama(rope_parameters=LLAMA3_ROPE, rms_norm_eps=1e-5),
    "llama3-rope-tied": lambda: llama(rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "llama-biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama-linear-rope": lambda: llama(rope_parameters=LINEAR_ROPE, num_key_value_heads=4),
    "llama-head-dim": lambda: llama(head_dim=32, num_key_value_heads=1),
    "qwen2": qwen2,
    "qwen2-tied": lambda: qwen2(tie_word_embeddings=True, num_attention_heads=8, num_key_value_heads=2),
    "mistral": mistral,
    "mistral-head-dim": lambda: mistral(head_dim=24, rms_norm_eps=1e-5),
    "mistral-window": lambda: mistral(sliding_window=64),
}


@dataclass(frozen=True, slots=True)
class Made:
    """A checkpoint on disk and the same one as transformers reads it."""

    directory: Path
    oracle: PreTrainedModel = field(repr=False)

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """Float32 [len(tokens), vocab], of the sequence on its own."""
        with torch.inference_mode():
            return self.oracle(torch.tensor([list(tokens)]), use_cache=False).logits[0].float()


def randomise(model: PreTrainedModel, seed: int = 0) -> None:
    """Give every tensor a say in the logits: attention far from uniform, biases and norms far from neutral."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(generator=generator)
        elif "norm" in name:
            parameter.data.uniform_(0.5, 1.5, generator=generator)
        elif "embed_tokens" in name:
            parameter.data.normal_(generator=generator)
        else:
            gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
            parameter.data.normal_(std=gain * parameter.shape[1] ** -0.5, generator=generator)


def make(
    directory: Path, config: PreTrainedConfig, dtype: torch.dtype = torch.float32, shard_size: str | None = None
) -> Made:
    """Write a random checkpoint of `config` and read it back with transformers."""
    model = AutoModelForCausalLM.from_config(config)
    randomise(model)
    model.to(dtype).save_pretrained(directory, **({"max_shard_size": shard_size} if shard_size else {}))
    return read(directory, dtype)


def read(directory: Path, dtype: torch.dtype = torch.float32) -> Made:
    """Read `directory` with transformers, whose plainest attention serves as the oracle."""
    return Made(directory, AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager"))


def configure(directory: Path, remove: Sequence[str] = (), **changes: Any) -> None:
    """Change keys of `directory`/config.json."""
    path = directory / "config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in remove}
    path.write_text(json.dumps(kept | changes))


def chain(count: int, first: int = 0) -> range:
    """The parents of `count` rows in a line, the first of which is the cache's uncommitted row `first`."""
    return range(first - 1, first - 1 + count)


def run(model: Transformer, tokens: Sequence[int], cache: KVCache) -> Tensor:
    """Run `tokens` after the committed positions and commit them; the logits of every row."""
    logits = model.forward(tokens, chain(len(tokens)), cache, slice(None))
    cache.commit(range(len(tokens)))
    return logits


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Hold the largest error to `tolerance` times the largest logit."""
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"relative error {error:.2e} > {tolerance:.0e}"
