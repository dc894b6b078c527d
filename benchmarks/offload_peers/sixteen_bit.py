"""The layers of an AWQ checkpoint that add something, in bfloat16, for libraries that stream no other weights on a CPU.

A checkpoint of benchmarks.make_checkpoint has idle layers: without them, a model of 16 bits says the same and can have
about as many bytes as the whole one has with 4. So these libraries read no more than the others, as if they had 4 bits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.checkpoints.layers import EMPTY_WORD
from benchmarks.checkpoints.writer import Planned, write_sharded
from engine.errors import TreelineError
from engine.kernels.reference import dequantize_awq
from engine.model.config import ModelConfig
from engine.model.weights import FLOATS, Checkpoint

MATRICES = {
    "self_attn.q_proj": ("hidden_size", "queries"),
    "self_attn.k_proj": ("hidden_size", "keys"),
    "self_attn.v_proj": ("hidden_size", "keys"),
    "self_attn.o_proj": ("queries", "hidden_size"),
    "mlp.gate_proj": ("hidden_size", "intermediate_size"),
    "mlp.up_proj": ("hidden_size", "intermediate_size"),
    "mlp.down_proj": ("intermediate_size", "hidden_size"),
}


def write_sixteen_bit(source: Path, out: Path) -> None:
    """Write folder `out`. Raises TreelineError if `source` is no Llama with AWQ weights and zero points."""
    config = ModelConfig.load(source)
    if config.awq is None or config.model_type != "llama":
        raise TreelineError(f"{source}: a Llama checkpoint with AWQ weights is needed")
    checkpoint = Checkpoint.open(source)
    layers = [index for index in range(config.num_hidden_layers) if _adds(checkpoint, config, index)]
    out.mkdir(parents=True)
    write_sharded(list(_tensors(checkpoint, config, layers)), out, lambda _: None)
    raw: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    raw = {key: value for key, value in raw.items() if key not in ("quantization_config", "torch_dtype")}
    raw |= {"dtype": "bfloat16", "num_hidden_layers": len(layers)}
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, out / name)
    (out / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _adds(checkpoint: Checkpoint, config: ModelConfig, index: int) -> bool:
    """Whether a layer changes the residual stream."""
    shape = [config.intermediate_size, config.hidden_size // 8]
    words = checkpoint.tensor(f"model.layers.{index}.mlp.down_proj.qweight", shape, [torch.int32])
    return bool((words != EMPTY_WORD).any())


def _tensors(checkpoint: Checkpoint, config: ModelConfig, layers: list[int]) -> Iterator[Planned]:
    hidden = (config.hidden_size,)
    vocabulary = (config.vocab_size, config.hidden_size)
    yield _float(checkpoint, "model.embed_tokens.weight", vocabulary)
    for number, index in enumerate(layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            name = f"{norm}.weight"
            yield _float(checkpoint, f"model.layers.{index}.{name}", hidden, f"model.layers.{number}.{name}")
        for name, (inputs, outputs) in MATRICES.items():
            shape = (_size(config, outputs), _size(config, inputs))
            make = partial(_matrix, checkpoint, config, f"model.layers.{index}.{name}", shape)
            yield Planned(f"model.layers.{number}.{name}.weight", "BF16", shape, make)
    yield _float(checkpoint, "model.norm.weight", hidden)
    if not config.tie_word_embeddings:
        yield _float(checkpoint, "lm_head.weight", vocabulary)


def _size(config: ModelConfig, name: str) -> int:
    heads = {"queries": config.num_attention_heads, "keys": config.num_key_value_heads}
    return heads[name] * config.head_dim if name in heads else int(getattr(config, name))


def _float(checkpoint: Checkpoint, name: str, shape: tuple[int, ...], new_name: str | None = None) -> Planned:
    def rows() -> Iterator[Tensor]:
        for part in checkpoint.tensor(name, shape).split(8192):
            yield part.to(torch.bfloat16)

    return Planned(new_name or name, "BF16", shape, rows)


def _matrix(checkpoint: Checkpoint, config: ModelConfig, name: str, shape: tuple[int, int]) -> Iterator[Tensor]:
    outputs, inputs = shape
    assert config.awq is not None
    groups = inputs // config.awq.group_size
    qweight = checkpoint.tensor(f"{name}.qweight", [inputs, outputs // 8], [torch.int32])
    qzeros = checkpoint.tensor(f"{name}.qzeros", [groups, outputs // 8], [torch.int32])
    scales = checkpoint.tensor(f"{name}.scales", [groups, outputs], FLOATS)
    yield dequantize_awq(qweight, qzeros, scales).to(torch.bfloat16)
