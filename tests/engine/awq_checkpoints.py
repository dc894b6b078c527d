"""AWQ checkpoints that AutoAWQ packs or quantises, and the weights that AutoAWQ reads from them."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from tests.engine.checkpoints import Made, randomise

Cover = Callable[[str], bool]


def auto_awq(module: str) -> Any:
    """A module of AutoAWQ, which warns at import that it is no longer maintained."""
    why = "AutoAWQ is not installed: pip install --no-deps autoawq==0.2.9"
    with warnings.catch_warnings(record=True):  # recorded, because the import itself undoes every filter
        return pytest.importorskip(module, reason=why)


def write_packed(
    directory: Path, config: PreTrainedConfig, group_size: int, section: dict[str, Any], cover: Cover
) -> None:
    """Write a checkpoint of random 4-bit integers, zero points and scales, packed by AutoAWQ's WQLinear_GEMM.

    `section`: changes to its quantization_config; without `zero_point` all zero points are 8. `cover`: which layers.
    """
    gemm = auto_awq("awq.modules.linear.gemm").WQLinear_GEMM
    model = AutoModelForCausalLM.from_config(config)
    randomise(model)
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    settings = {"quant_method": "awq", "bits": 4, "group_size": group_size, "version": "gemm", "zero_point": True}
    settings |= section
    generator = torch.Generator().manual_seed(group_size)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head" and cover(name):
            del tensors[f"{name}.weight"]
            packed = pack(gemm, module, group_size, settings["zero_point"], generator)
            tensors |= {f"{name}.{key}": value for key, value in packed.items()}
    config.save_pretrained(directory)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": settings, "dtype": "float16"}))


def pack(gemm: Any, layer: nn.Linear, group: int, zero_point: bool, generator: torch.Generator) -> dict[str, Tensor]:
    """Random integers of `layer`'s shape as AutoAWQ packs them."""
    inputs, outputs, groups = layer.in_features, layer.out_features, layer.in_features // group
    q = torch.randint(0, 16, (inputs, outputs), generator=generator)
    zeros = (
        torch.randint(0, 16, (groups, outputs), generator=generator) if zero_point else torch.full((groups, outputs), 8)
    )
    scales = ((torch.rand(groups, outputs, generator=generator) + 0.5) * 0.12 / inputs**0.5).half()
    weight = (q - zeros.repeat_interleave(group, 0)) * scales.float().repeat_interleave(group, 0)
    exact = nn.Linear(inputs, outputs, bias=layer.bias is not None)
    exact.weight.data = weight.T.contiguous()
    if layer.bias is not None:
        exact.bias.data = layer.bias.data.half().float()
    state = gemm.from_linear(exact, 4, group, scales=scales.float(), zeros=zeros.float()).state_dict()
    unpacked, _ = integers(state["qweight"], state["qzeros"])
    assert torch.equal(unpacked, q)  # AutoAWQ's packing rounded nothing away
    if not zero_point:
        del state["qzeros"]
    return {key: value.cpu() for key, value in state.items()}


def integers(qweight: Tensor, qzeros: Tensor) -> tuple[Tensor, Tensor]:
    """The 4-bit integers [K, N] and zero points [K / group, N] that AutoAWQ unpacks."""
    packing = auto_awq("awq.utils.packing_utils")
    q, zeros = packing.reverse_awq_order(*packing.unpack_awq(qweight, qzeros, 4), 4)
    return q & 15, zeros & 15


def dequantised(tensors: dict[str, Tensor], name: str, group_size: int) -> Tensor:
    """Float32 [N, K]: the weight that AutoAWQ's CPU path multiplies by, with its scales widened before the product."""
    qweight, scales = tensors[f"{name}.qweight"], tensors[f"{name}.scales"]
    none = torch.full((scales.shape[0], qweight.shape[1]), -0x77777778, dtype=torch.int32)  # every nibble 8
    qzeros = tensors.get(f"{name}.qzeros", none)
    return auto_awq("awq.utils.packing_utils").dequantize_gemm(qweight, qzeros, scales.float(), 4, group_size).T


def quantise(directory: Path, config: PreTrainedConfig, group_size: int) -> Path:
    """Quantise a random model from end to end with AutoAWQ: search for scales and clipping, packing, writing."""
    awq = auto_awq("awq")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    source, target = directory / "dense", directory / "awq"
    model = AutoModelForCausalLM.from_config(config)
    randomise(model)
    model.save_pretrained(source)
    words = Tokenizer(WordLevel({str(token): token for token in range(config.vocab_size)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.save_pretrained(source)
    samples = [torch.randint(0, config.vocab_size, (32,)).tolist() for _ in range(8)]
    gc.freeze()  # AutoAWQ collects garbage hundreds of times
    try:
        quantised = awq.AutoAWQForCausalLM.from_pretrained(str(source), device_map="cpu")
        settings = {"zero_point": True, "q_group_size": group_size, "w_bit": 4, "version": "GEMM"}
        quantised.quantize(
            tokenizer, quant_config=settings, calib_data=samples, max_calib_samples=8, max_calib_seq_len=32
        )
    finally:
        gc.unfreeze()
    quantised.save_quantized(str(target))
    return target


def read_dequantised(directory: Path, config: PreTrainedConfig, group_size: int) -> Made:
    """The model of `directory` as transformers computes it in float32, from the weights that AutoAWQ unpacks."""
    tensors = load_file(directory / "model.safetensors")
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind == "qweight":
            state[f"{layer}.weight"] = dequantised(tensors, layer, group_size)
        elif kind not in ("qzeros", "scales"):
            state[name] = tensor.float()
    oracle = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    missing, unexpected = oracle.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if config.tie_word_embeddings else [], [])
    return Made(directory, oracle)
