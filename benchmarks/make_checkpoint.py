"""Writes a checkpoint of a published model's size that says, token for token, what a small checkpoint says.

    python -m benchmarks.make_checkpoint --shape llama-3.1-70b --from engine/assets/target --out big/llama-3.1-70b

What offloading costs depends on the size of the weights; what speculation gains, on what they say. The small model is
embedded in the large shape (benchmarks/checkpoints/placement.py says how): nothing is quantised again. Layers that the
small model lacks are random and add nothing to the residual stream. The format is that of the source, AWQ or float16.
Context length, RoPE parameters and tokenizer stay the source's too, so that prompts are the same.

In float32 the tokens are the small model's. Kernels that round activations to 8 bits may decide near-ties otherwise:
sums are rounded in another order. With --trimmed, all that adds nothing is left out: such a checkpoint fits in memory,
and on Treeline's CPU kernels its tokens are the full one's, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.checkpoints.model import Large
from benchmarks.checkpoints.placement import GROUP, trimmed
from benchmarks.checkpoints.shapes import SHAPES, Shape
from benchmarks.checkpoints.writer import SHARD_BYTES, write_sharded
from engine.errors import TreelineError
from engine.model.config import ModelConfig

SPARE_BYTES = 256 << 20  # left free on the disk
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


def make_checkpoint(source: Path, shape: Shape, out: Path, trim: bool = False, shard_bytes: int = SHARD_BYTES) -> None:
    """Write folder `out`, which must not exist. Raises TreelineError, leaving nothing behind, if it cannot be done."""
    if out.exists():
        raise TreelineError(f"{out} exists: remove it, or choose another folder")
    large = Large.open(source, trimmed(shape, ModelConfig.load(source)) if trim else shape)
    tensors = large.tensors()
    total = sum(tensor.bytes for tensor in tensors)
    unfinished = out.with_name(f"{out.name}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        _check_space(unfinished, total)
        write_sharded(tensors, unfinished, _Progress(total).advance, shard_bytes)
        _write_companions(source, large, unfinished)
        unfinished.rename(out)
    except OSError as error:
        raise TreelineError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise TreelineError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, {(needed + SPARE_BYTES) / 1e9:.1f} are needed:"
            " free some, or choose another folder"
        )


def _write_companions(source: Path, large: Large, out: Path) -> None:
    for name in COMPANIONS:
        if (source / name).exists():
            shutil.copyfile(source / name, out / name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps(_config(config, large), indent=2) + "\n", encoding="utf-8")


def _config(source: dict[str, Any], large: Large) -> dict[str, Any]:
    shape = large.shape
    changed: dict[str, Any] = {
        "architectures": [ARCHITECTURES[shape.model_type]],
        "model_type": shape.model_type,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "rms_norm_eps": large.placement.eps,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "float16",
    }
    if large.config.awq:
        changed["quantization_config"] = {**source["quantization_config"], "group_size": GROUP, "zero_point": True}
    return {key: value for key, value in source.items() if key not in ("dtype", "layer_types")} | changed


class _Progress:
    """Bytes written, on standard error, only for a terminal."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._shown = total, 0, -1

    def advance(self, count: int) -> None:
        self._done += count
        percent = 100 * self._done // self._total
        if percent > self._shown and sys.stderr.isatty():
            self._shown = percent
            filled = "#" * (percent // 4)
            end = "\n" if self._done == self._total else ""
            line = f"\r[{filled:25}] {self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB"
            print(line, end=end, file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_checkpoint", description=summary, epilog=rest)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True, help="the model whose size to take")
    parser.add_argument("--from", dest="source", type=Path, required=True, help="folder of the small checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--trimmed", action="store_true", help="leave out all that adds nothing")
    arguments = parser.parse_args()
    try:
        make_checkpoint(arguments.source, SHAPES[arguments.shape], arguments.out, arguments.trimmed)
    except TreelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
