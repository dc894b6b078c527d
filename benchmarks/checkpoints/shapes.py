"""The sizes of published models, as their config.json states them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes in Hugging Face's terms. `tied`: the embedding is the output projection as well."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied: bool = False
    model_type: str = "llama"


SHAPES: Mapping[str, Shape] = {
    "llama-3.1-70b": Shape(8192, 28672, 80, 64, 8, 128, 128256),
    "llama-3.1-8b": Shape(4096, 14336, 32, 32, 8, 128, 128256),
    "llama-3.2-1b": Shape(2048, 8192, 16, 32, 8, 64, 128256, tied=True),
    "codedrafter-500m": Shape(2048, 8192, 4, 32, 8, 64, 128256, tied=True),
    "qwen2.5-coder-32b": Shape(5120, 27648, 64, 40, 8, 128, 152064, model_type="qwen2"),
    "qwen2.5-coder-14b": Shape(5120, 13824, 48, 40, 8, 128, 152064, model_type="qwen2"),
    "qwen2.5-coder-7b": Shape(3584, 18944, 28, 28, 4, 128, 152064, model_type="qwen2"),
}
