"""Load the pair into transformers for evaluation; AWQ weights are dequantised by AutoAWQ's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from training.common import TrainingError, require


def dequantised(tensors: dict[str, torch.Tensor], group_size: int) -> dict[str, torch.Tensor]:
    """Replace AWQ's qweight, qzeros and scales by fp32 weights [out, in]."""
    try:
        from awq.utils.packing_utils import dequantize_gemm
    except ImportError as error:
        message = f"AutoAWQ cannot be imported ({error}); install it with: pip install --no-deps autoawq==0.2.9"
        raise TrainingError(message) from None
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        base, _, leaf = name.rpartition(".")
        if leaf == "qweight":
            zeros, scales = tensors[f"{base}.qzeros"], tensors[f"{base}.scales"]
            weight = dequantize_gemm(tensor, zeros, scales.float(), 4, group_size)
            plain[f"{base}.weight"] = weight.t().contiguous().float()
        elif leaf not in ("qzeros", "scales"):
            plain[name] = tensor.float()
    return plain


def plain_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder, AWQ or not, as fp32 under the names of an unquantised checkpoint."""
    quantisation = _config(folder).get("quantization_config")
    tensors = load_file(require(folder / "model.safetensors", "python -m training.export"))
    if quantisation:
        return dequantised(tensors, quantisation["group_size"])
    return {name: tensor.float() for name, tensor in tensors.items()}


def _config(folder: Path) -> dict[str, Any]:
    return json.loads(require(folder / "config.json", "python -m training.export").read_text(encoding="utf-8"))


def load_reference(folder: Path) -> Any:
    """A LlamaForCausalLM of transformers in fp32 with the weights of a folder, AWQ or not."""
    from transformers import LlamaConfig, LlamaForCausalLM

    content = _config(folder)
    content.pop("quantization_config", None)
    content.pop("torch_dtype", None)
    model = LlamaForCausalLM(LlamaConfig(**content))
    missing, unexpected = model.load_state_dict(plain_tensors(folder), strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise TrainingError(f"{folder}: tensors missing {missing[:3]}, unexpected {unexpected[:3]}")
    model.tie_weights()
    return model.eval()


def write_start(folder: Path, run: Path) -> None:
    """Let a training run that has not begun go on from the weights of a Hugging Face folder."""
    if not (run / "checkpoint.pt").exists():
        run.mkdir(parents=True, exist_ok=True)
        torch.save(training_state(folder), run / "initial.pt")


def training_state(folder: Path) -> dict[str, Any]:
    """A Hugging Face folder of the pair, AWQ or not, as the trainer's ``initial.pt``: weights fp32, and the depth."""
    model = load_reference(folder)
    state: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            parts = name.removeprefix("model.").removesuffix(".weight").split(".")
            state[".".join(part for part in parts if part not in ("self_attn", "mlp"))] = value.clone()
    return {"model": state, "layers": model.config.num_hidden_layers}
