"""Write a training checkpoint as a Hugging Face folder for transformers' LlamaForCausalLM, and check its logits."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training.common import TrainingError, default_cache, progress, require
from training.model import Llama, LlamaShape
from training.trainer import load_model

_NORMS = ("input_layernorm", "post_attention_layernorm")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_TOLERANCE = 1e-4  # of the logits' largest magnitude


def hugging_face_config(shape: LlamaShape, dtype: str) -> dict[str, Any]:
    """The content of config.json, in the keys of the published Llama 3.1 checkpoints."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 4,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "head_dim": shape.head_dim,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.max_positions,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.rms_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": shape.rope_factor,
            "low_freq_factor": shape.rope_low,
            "high_freq_factor": shape.rope_high,
            "original_max_position_embeddings": shape.rope_original,
        },
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }


def hugging_face_name(name: str) -> str:
    """The Hugging Face name of a parameter of `model.Llama`."""
    if not name.startswith("layers."):
        return f"model.{name}.weight"
    prefix, leaf = name.rsplit(".", 1)
    group = "" if leaf in _NORMS else "self_attn." if leaf in _ATTENTION else "mlp."
    return f"model.{prefix}.{group}{leaf}.weight"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON with a final line break."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_folder(model: Llama, folder: Path, tokenizer: Path, dtype: torch.dtype) -> None:
    """Write model.safetensors, config.json, generation_config.json and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {hugging_face_name(name): value.to(dtype).contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", hugging_face_config(model.shape, str(dtype).removeprefix("torch.")))
    write_companions(folder, tokenizer)


def write_companions(folder: Path, tokenizer: Path) -> None:
    """Write generation_config.json and copy the tokenizer's files."""
    write_json(folder / "generation_config.json", {"eos_token_id": 0, "pad_token_id": 4})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)


@torch.no_grad()
def check_logits(model: Llama, folder: Path) -> float:
    """Largest difference to transformers' logits in fp32, relative to their largest magnitude; error above 1e-4."""
    from transformers import LlamaForCausalLM  # slow to import

    reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(7, model.shape.vocabulary, (2, 300), generator=generator)
    model.dtype = torch.float32
    theirs, ours = reference(ids).logits, model.logits(ids)
    difference = float((theirs - ours).abs().max() / theirs.abs().max())
    if not difference <= _TOLERANCE:
        raise TrainingError(f"{folder}: logits differ from transformers' by {difference:.2e} of their magnitude")
    return difference


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--name", default="target", help="folder under the cache that holds checkpoint.pt")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    a = parser.parse_args()
    try:
        checkpoint = require(a.cache / a.name / "checkpoint.pt", "python -m training.train (or training.distill)")
        model = load_model(checkpoint, torch.float32)
        write_folder(model, a.out, a.cache / "tokenizer", getattr(torch, a.dtype))
        if a.dtype == "float32":
            progress(f"logits agree with transformers: {check_logits(model, a.out):.1e} relative")
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    parameters = sum(p.numel() for p in model.parameters())
    progress(f"{a.out}: {parameters:,} parameters, {(a.out / 'model.safetensors').stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
