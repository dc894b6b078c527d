"""Quantise the target with AutoAWQ on the CPU: 4 bits, zero points, the "gemm" layout.

Reads a Hugging Face folder (see training.export), calibrates on training data in the layouts the model was trained on,
writes the AWQ folder. The embedding, which is also the output projection, stays in fp16.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training.batches import BatchSource, Corpus
from training.common import TrainingError, default_cache, progress, require
from training.data import read_split
from training.export import write_companions, write_json
from training.layouts import SampleMix
from training.trainer import load_encoder

_CALIBRATION_LENGTH = 512


def calibration_rows(cache: Path, count: int, seed: int) -> list[list[int]]:
    """Rows of training samples, ``count`` lists of 512 token ids."""
    source = BatchSource(Corpus.of(read_split(cache, "train")), load_encoder(cache), seed)
    return [source.row(10_000_000 + i, _CALIBRATION_LENGTH - 1, SampleMix()) for i in range(count)]


def cpu_quantizer() -> Any:
    """AutoAWQ's quantizer, mended for the CPU.

    Its search for scales keeps ``v.cpu()`` of every weight to restore after each trial. On the CPU that is no copy, so
    the first trial's scales stay multiplied into the weights (measured here: +1.3 nats per token).
    """
    from awq.quantize.quantizer import AwqQuantizer

    class CpuQuantizer(AwqQuantizer):
        def _compute_best_scale(
            self, x: Any, w_mean: Any, x_mean: Any, module2inspect: Any, *rest: Any, **named: Any
        ) -> Any:
            saved = {name: tensor.clone() for name, tensor in module2inspect.state_dict().items()}
            module2inspect.state_dict = lambda: saved
            try:
                return super()._compute_best_scale(x, w_mean, x_mean, module2inspect, *rest, **named)
            finally:
                del module2inspect.state_dict

    return CpuQuantizer


def run_autoawq(source: Path, target: Path, rows: list[list[int]], group_size: int) -> None:
    """Quantise ``source`` into ``target`` with AutoAWQ."""
    try:
        from awq import AutoAWQForCausalLM
    except ImportError as error:
        message = f"AutoAWQ cannot be imported ({error}); install it with: pip install --no-deps autoawq==0.2.9"
        raise TrainingError(message) from None
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    loading: dict[str, Any] = {"torch_dtype": torch.float32, "device_map": "cpu"}
    model = AutoAWQForCausalLM.from_pretrained(str(source), **loading)
    settings = {"zero_point": True, "q_group_size": group_size, "w_bit": 4, "version": "GEMM"}
    model.quantize(
        AutoTokenizer.from_pretrained(source),
        quant_config=settings,
        calib_data=rows,  # pyright: ignore[reportArgumentType]
        max_calib_samples=len(rows),
        max_calib_seq_len=_CALIBRATION_LENGTH,
        quantizer_cls=cpu_quantizer(),
    )
    model.save_quantized(str(target))


def finish(source: Path, target: Path, tokenizer: Path, group_size: int) -> None:
    """Store what AutoAWQ left in fp32 as fp16, drop the tied output projection, write the published config keys."""
    tensors = load_file(target / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    kept = {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in sorted(tensors.items())}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["torch_dtype"] = "float16"
    config["quantization_config"] = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "modules_to_not_convert": None,
    }
    write_json(target / "config.json", config)
    write_companions(target, tokenizer)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.quantize", description=__doc__)
    parser.add_argument("source", type=Path, help="Hugging Face folder of the unquantised target")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--group-size", type=int, choices=(32, 64, 128), default=64)
    parser.add_argument("--rows", type=int, default=128, help="calibration rows of 512 tokens")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    try:
        require(a.source / "config.json", "python -m training.export")
        run_autoawq(a.source, a.out, calibration_rows(a.cache, a.rows, a.seed), a.group_size)
        finish(a.source, a.out, a.cache / "tokenizer", a.group_size)
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    progress(f"{a.out}: {(a.out / 'model.safetensors').stat().st_size:,} bytes, group size {a.group_size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
