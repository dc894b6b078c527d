"""A small target, an AWQ copy of it and a drafter that half agrees with it, written by transformers."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from small_tokenizers import write_tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from engine.kernels import reference

GROUP = 32
CONTEXT = 512


@dataclass(frozen=True, slots=True)
class PairPaths:
    """Checkpoint folders in Hugging Face layout."""

    target: Path
    awq: Path
    drafter: Path


def write_pair(directory: Path) -> PairPaths:
    """Write the three checkpoints. The drafter is the target's first layer with some noise."""
    paths = PairPaths(directory / "target", directory / "awq", directory / "drafter")
    write_tokenizer("treeline", paths.target)
    vocab_size = len(json.loads((paths.target / "tokenizer.json").read_text())["model"]["vocab"]) + 16
    torch.manual_seed(0)
    target = _model(vocab_size, layers=3)
    drafter = _model(vocab_size, layers=1)
    state = target.state_dict()
    drafter.load_state_dict({name: state[name] + 0.02 * torch.randn_like(state[name]) for name in drafter.state_dict()})
    for model, path in ((target, paths.target), (drafter, paths.drafter)):
        _save(model, path, paths.target)
    _save_awq(target, paths.awq, paths.target)
    return paths


def _model(vocab_size: int, layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.15,
        tie_word_embeddings=True,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def _save(model: LlamaForCausalLM, path: Path, tokenizer: Path) -> None:
    files = {name: (tokenizer / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    model.save_pretrained(path)
    for name, content in files.items():
        (path / name).write_bytes(content)


def _save_awq(model: LlamaForCausalLM, path: Path, source: Path) -> None:
    """Quantise by rounding to nearest, and write AutoAWQ's "gemm" layout."""
    path.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        if name.endswith("proj.weight"):
            tensors |= _quantise(name.removesuffix(".weight"), weight)
        elif name != "lm_head.weight":
            tensors[name] = weight.clone()
    save_file(tensors, path / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, path / name)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": GROUP,
        "zero_point": True,
        "version": "gemm",
    }
    (path / "config.json").write_text(json.dumps(config))


def _quantise(name: str, weight: Tensor) -> dict[str, Tensor]:
    groups = weight.T.reshape(-1, GROUP, weight.shape[0])  # [groups, GROUP, out]
    low, high = groups.amin(1), groups.amax(1)
    scales = ((high - low) / 15).half()
    zeros = (-low / scales.float()).round().clamp(0, 15)
    q = (groups / scales.float()[:, None] + zeros[:, None]).round().clamp(0, 15).reshape(weight.shape[1], -1)
    return {
        f"{name}.qweight": reference.pack_nibbles(q.to(torch.int64)),
        f"{name}.qzeros": reference.pack_nibbles(zeros.to(torch.int64)),
        f"{name}.scales": scales,
    }
