"""Writes a plain Hugging Face Llama checkpoint as GGUF, so that llama.cpp runs the very weights that Treeline runs.

    python -m benchmarks.peers.gguf_convert CHECKPOINT OUT.gguf --type q4_0

Needs the packages `gguf` and `numpy` and nothing else; run it with the interpreter that has llama-cpp-python. The file
carries no vocabulary: prompts are fed as token ids. `q4_0` is what llama-quantize makes of such a model: Q4_0 matrices
and, because the embedding matrix is also the output projection, that one in Q8_0 when its rows are not a multiple of
256 long (Q6_K otherwise, which gguf cannot write: Q8_0 then too). `q4_0_pure` holds that matrix in Q4_0 as well. `f32`
checks the conversion.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import gguf  # pyright: ignore[reportMissingImports] - of the interpreter that has llama-cpp-python
import numpy as np
import numpy.typing as npt
from gguf.utility import SafetensorsLocal  # pyright: ignore[reportMissingImports]

Float32 = npt.NDArray[np.float32]
Weight = TypeVar("Weight", bound=npt.NDArray[Any])
Type: Any = gguf.GGMLQuantizationType

# (matrices, embedding and output) of each kind of file
KINDS: Mapping[str, tuple[Any, Any]] = {
    "f32": (Type.F32, Type.F32),
    "q8_0": (Type.Q8_0, Type.Q8_0),
    "q4_0": (Type.Q4_0, Type.Q8_0),
    "q4_0_pure": (Type.Q4_0, Type.Q4_0),
}
FILE_TYPES: Mapping[str, gguf.LlamaFileType] = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_0_pure": gguf.LlamaFileType.MOSTLY_Q4_0,
}
LAYER_NAMES: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP_NAMES: Mapping[str, str] = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    """GGUF's name of a Hugging Face tensor; ValueError when a Llama model has no such tensor."""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    parts = name.split(".")  # model.layers.3.self_attn.q_proj.weight
    middle = ".".join(parts[3:-1])
    if parts[:2] != ["model", "layers"] or middle not in LAYER_NAMES or parts[-1] not in ("weight", "bias"):
        raise ValueError(f"{name} is not a tensor of a Llama model")
    return f"blk.{parts[2]}.{LAYER_NAMES[middle]}.{parts[-1]}"


def permuted(weight: Weight, heads: int) -> Weight:
    """Rows of each head from the rotate-half order to the interleaved order that llama.cpp rotates in."""
    rows = weight.shape[0]
    pairs = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return cast(Weight, np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape)))


def rope_parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """RoPE settings of either generation of config.json, with `rope_theta` and `rope_type` always there."""
    found: dict[str, Any] = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    found.setdefault("rope_type", found.get("type", "default"))
    return found


def rope_factors(rope: Mapping[str, Any], head_dim: int) -> Float32:
    """Divisors of the rotation frequencies under `llama3` scaling, float32 [head_dim / 2]."""
    theta, factor = float(rope["rope_theta"]), float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    context = float(rope["original_max_position_embeddings"])
    factors: list[float] = []
    for i in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * i / head_dim)
        # 1 keeps the frequency (short waves), 0 divides it by `factor` (long waves), linear in between
        kept = min(1.0, max(0.0, (context / wavelength - low) / (high - low)))
        factors.append(1 / (kept + (1 - kept) / factor))
    return np.array(factors, dtype=np.float32)


def read_tensors(checkpoint: Path) -> dict[str, Float32]:
    """All float tensors of a safetensors checkpoint (one file or shards), as float32."""
    tensors: dict[str, Float32] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        for name, tensor in SafetensorsLocal(file).tensors.items():
            if tensor.dtype not in ("F32", "F16"):
                raise ValueError(f"{file}: {name} is {tensor.dtype}; convert it to F32 first")
            dtype = np.float32 if tensor.dtype == "F32" else np.float16
            raw = np.frombuffer(bytes(tensor.mmap_bytes()), dtype=dtype)
            tensors[name] = raw.reshape(tensor.shape).astype(np.float32)
    return tensors


def add_header(writer: gguf.GGUFWriter, config: Mapping[str, Any], kind: str) -> None:
    """The key/value part: shapes, RoPE, and an empty vocabulary of the right size."""
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_name("benchmark")
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(rope_parameters(config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_tokenizer_model("no_vocab")


def convert(checkpoint: Path, out: Path, kind: str) -> None:
    """Write `out`. Raises ValueError for an architecture, tensor or RoPE scaling that this writer does not know."""
    config: Mapping[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "llama":
        raise ValueError(f"{checkpoint}: model_type is {config.get('model_type')}; only llama is converted")
    rope = rope_parameters(config)
    if rope["rope_type"] not in ("default", "llama3"):
        raise ValueError(f"{checkpoint}: rope_type is {rope['rope_type']}; only default and llama3 are converted")
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    matrix_type, vocabulary_type = KINDS[kind]
    writer = gguf.GGUFWriter(out, "llama")
    add_header(writer, config, kind)
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_factors(rope, head_dim))
    for name, weight in read_tensors(checkpoint).items():
        if config.get("tie_word_embeddings") and name == "lm_head.weight":
            continue
        if ".q_proj." in name:
            weight = permuted(weight, heads)
        elif ".k_proj." in name:
            weight = permuted(weight, kv_heads)
        kind_of_tensor = vocabulary_type if name in ("model.embed_tokens.weight", "lm_head.weight") else matrix_type
        if weight.ndim == 1 or kind_of_tensor == Type.F32:
            writer.add_tensor(gguf_name(name), weight)
        else:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(weight, kind_of_tensor), raw_dtype=kind_of_tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="folder with config.json and float safetensors")
    parser.add_argument("out", type=Path, help="the GGUF file to write")
    parser.add_argument("--type", choices=sorted(KINDS), default="q4_0", help="default: q4_0")
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.out, arguments.type)


if __name__ == "__main__":
    main()
