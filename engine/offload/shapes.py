"""Models to plan for without having them: shapes of published checkpoints, and graphics cards."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.config import closest
from engine.errors import TreelineError
from engine.model.config import Awq, ModelConfig, Rope

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card: bytes of memory, bytes per second of its memory and of its link to the host, dense fp16 products.

    `memory_bandwidth` and `flops` are the manufacturer's figures. `link` is what copies from pinned memory reach in
    practice: about 25 GB/s over PCIe 4.0 x16, twice that over 5.0.
    """

    name: str
    memory: int
    memory_bandwidth: float
    link: float
    flops: float


GPUS = (
    Gpu("rtx3090", 24 * GIB, 936e9, 25e9, 71e12),
    Gpu("rtx4070ti", 12 * GIB, 504e9, 25e9, 80e12),
    Gpu("rtx4080", 16 * GIB, 717e9, 25e9, 97e12),
    Gpu("rtx4080s", 16 * GIB, 736e9, 25e9, 104e12),
    Gpu("rtx4090", 24 * GIB, 1008e9, 25e9, 165e12),
    Gpu("rtx5090", 32 * GIB, 1792e9, 55e9, 209e12),
    Gpu("l40", 48 * GIB, 864e9, 25e9, 181e12),
    Gpu("a100", 40 * GIB, 1555e9, 25e9, 312e12),
    Gpu("a100-80gb", 80 * GIB, 2039e9, 25e9, 312e12),
    Gpu("h100", 80 * GIB, 3350e9, 52e9, 989e12),
    Gpu("h200", 141_000_000_000, 4800e9, 52e9, 989e12),
    Gpu("12gb", 12 * GIB, 504e9, 25e9, 80e12),
    Gpu("16gb", 16 * GIB, 717e9, 25e9, 97e12),
    Gpu("24gb", 24 * GIB, 936e9, 25e9, 71e12),
    Gpu("48gb", 48 * GIB, 864e9, 25e9, 181e12),
)


def find_gpu(name: str) -> Gpu:
    """The row of that name. Raises TreelineError with the names there are."""
    found = next((gpu for gpu in GPUS if gpu.name == name.lower()), None)
    if found is None:
        raise TreelineError(f'no GPU called "{name}" is known: {closest(name, [gpu.name for gpu in GPUS])}')
    return found


def _shape(
    hidden: int, layers: int, middle: int, heads: int, kv_heads: int, head_dim: int, vocabulary: int,
    tied: bool = False, group: int | None = 128, family: str = "llama",
) -> ModelConfig:  # fmt: skip
    return ModelConfig(
        model_type=family,
        hidden_size=hidden,
        intermediate_size=middle,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocabulary,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        qkv_bias=family == "qwen2",
        output_bias=False,
        mlp_bias=False,
        rope=Rope(500000.0),
        dtype=torch.float16,
        awq=Awq(group, True, ("lm_head",)) if group else None,
    )


# hidden, layers, intermediate, heads, key-value heads, head size, vocabulary; int4 unless the group is None
SHAPES = {
    "llama-3.1-70b": _shape(8192, 80, 28672, 64, 8, 128, 128256),
    "llama-3.1-8b": _shape(4096, 32, 14336, 32, 8, 128, 128256),
    "llama-3.2-1b": _shape(2048, 16, 8192, 32, 8, 64, 128256, tied=True, group=None),
    "codedrafter-500m": _shape(2048, 4, 8192, 32, 8, 64, 128256, tied=True, group=None),
    "qwen2.5-coder-32b": _shape(5120, 64, 27648, 40, 8, 128, 152064, family="qwen2"),
    "qwen2.5-coder-14b": _shape(5120, 48, 13824, 40, 8, 128, 152064, family="qwen2"),
    "qwen2.5-coder-7b": _shape(3584, 28, 18944, 28, 4, 128, 152064, family="qwen2"),
    "qwen2.5-coder-0.5b": _shape(896, 24, 4864, 14, 2, 64, 151936, tied=True, group=None, family="qwen2"),
}


def find_shape(name: str) -> ModelConfig:
    """The shape of that name. Raises TreelineError with the names there are."""
    if name not in SHAPES:
        raise TreelineError(f'no shape called "{name}" is known: {closest(name, SHAPES)}')
    return SHAPES[name]
