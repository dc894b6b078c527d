"""The weights that Treeline runs, as plain float32 checkpoints that every other library reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.kernels.reference import dequantize_awq
from engine.model.config import ModelConfig

AWQ_PARTS = ("qweight", "qzeros", "scales")


def export(source: Path, out: Path) -> None:
    """Write checkpoint `source` (AWQ or not) to folder `out`: the same tensors, float32, AWQ matrices dequantised."""
    awq = ModelConfig.load(source).awq
    stored: dict[str, Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            stored |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
    plain: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        layer, _, part = name.rpartition(".")
        if part == "qweight" and awq is not None:
            qzeros, scales = stored.get(f"{layer}.qzeros"), stored[f"{layer}.scales"]
            plain[f"{layer}.weight"] = dequantize_awq(tensor, qzeros, scales)
        elif part not in AWQ_PARTS:
            plain[name] = tensor.float().contiguous()
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    out.mkdir(parents=True, exist_ok=True)
    save_file(plain, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
