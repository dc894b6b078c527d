"""AWQ checkpoints against AutoAWQ: its packing, its own end-to-end quantisation, its own dequantised weights."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels import reference
from engine.kernels.cpu import PackedLinear
from engine.model.config import ModelConfig
from engine.model.loader import LoadOptions, load_transformer
from tests.engine import awq_checkpoints, checkpoints
from tests.engine.checkpoints import VOCABULARY, Made, assert_close, chain, configure, run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using naive:UserWarning"),  # AutoAWQ without its CUDA kernels
]

WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_key_value_heads": 4}
FLOAT32 = LoadOptions(dtype=torch.float32)
# The CPU's integer kernels round activations to 8 bits and keep fp32 elsewhere: about 0.7% per product, chained.
INTEGER_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Case:
    """How a checkpoint is quantised; `dense`: parts of names in modules_to_not_convert."""

    make: Callable[..., Any]
    group_size: int = 128
    zero_point: bool = True
    dense: tuple[str, ...] = ()
    changes: tuple[tuple[str, Any], ...] = ()


CASES = {
    "llama": Case(checkpoints.llama),
    "llama-tied": Case(checkpoints.llama, 64, changes=(("tie_word_embeddings", True),)),
    "llama-no-zero-points": Case(checkpoints.llama, 128, zero_point=False),
    "llama-no-zero-points-32": Case(checkpoints.llama, 32, zero_point=False),
    "llama-partly-dense": Case(checkpoints.llama, 32, dense=("self_attn.k_proj", "layers.1.mlp")),
    "llama-dense-attention": Case(checkpoints.llama, 64, zero_point=False, dense=("self_attn",)),
    "qwen2": Case(checkpoints.qwen2, 64),
    "mistral": Case(checkpoints.mistral, 32, changes=(("head_dim", 64),)),
}


@dataclass(frozen=True, slots=True)
class Quantised:
    """An AWQ checkpoint, its tensors as they are on disk, and the oracle in float32."""

    directory: Path
    tensors: dict[str, Tensor]
    group_size: int
    made: Made

    def layers(self) -> list[str]:
        """Names of the quantised layers."""
        return sorted(name.removesuffix(".qweight") for name in self.tensors if name.endswith(".qweight"))


def quantised(directory: Path, config: Any, group_size: int) -> Quantised:
    made = awq_checkpoints.read_dequantised(directory, config, group_size)
    return Quantised(directory, load_file(directory / "model.safetensors"), group_size, made)


@pytest.fixture(scope="module", params=[*CASES, "by-autoawq"])
def awq(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Quantised:
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "by-autoawq":
        config = checkpoints.qwen2(**WIDE)  # with biases
        return quantised(awq_checkpoints.quantise(directory, config, 64), config, 64)
    case = CASES[request.param]
    config = case.make(**(WIDE | dict(case.changes)))
    section = {"zero_point": case.zero_point, "modules_to_not_convert": list(case.dense) or None}
    awq_checkpoints.write_packed(
        directory, config, case.group_size, section, lambda name: not any(part in name for part in case.dense)
    )
    return quantised(directory, config, case.group_size)


def test_what_is_quantised(awq: Quantised, request: pytest.FixtureRequest) -> None:
    """What the configuration says is quantised is what the file holds quantised, and in AutoAWQ's layout."""
    config = ModelConfig.load(awq.directory)
    assert config.awq is not None
    assert config.awq.group_size == awq.group_size
    names = [name for name, module in awq.made.oracle.named_modules() if isinstance(module, torch.nn.Linear)]
    assert awq.layers() == sorted(name for name in names if config.awq.covers(name))
    assert len(awq.layers()) >= 5


def test_integers_and_weights_are_autoawqs(awq: Quantised) -> None:
    for name in awq.layers():
        qweight, scales = awq.tensors[f"{name}.qweight"], awq.tensors[f"{name}.scales"]
        qzeros = awq.tensors.get(f"{name}.qzeros")
        expected = awq_checkpoints.dequantised(awq.tensors, name, awq.group_size)
        assert torch.equal(reference.dequantize_awq(qweight, qzeros, scales), expected)
        packed = PackedLinear.from_awq(qweight, qzeros, scales, awq.group_size)
        assert torch.allclose(packed.dequantize(), expected, rtol=1e-6, atol=0)
        if qzeros is not None:
            ours = reference.unpack_awq(qweight, qzeros, scales)
            for one, other in zip(ours, awq_checkpoints.integers(qweight, qzeros), strict=True):
                assert torch.equal(one.long(), other.long())


def test_weights_are_what_autoawqs_layer_multiplies_by(awq: Quantised, monkeypatch: pytest.MonkeyPatch) -> None:
    """WQLinear_GEMM itself, fed unit vectors: its fp16 weights are ours rounded to fp16, to the last bit."""
    gemm = awq_checkpoints.auto_awq("awq.modules.linear.gemm")
    monkeypatch.setattr(gemm, "awq_ext", None)  # its GPU kernels, where they are installed
    monkeypatch.setattr(gemm, "TRITON_AVAILABLE", False)
    for name in awq.layers()[:3]:
        tensors = {kind: awq.tensors.get(f"{name}.{kind}") for kind in ("qweight", "qzeros", "scales")}
        qweight, scales = tensors["qweight"], tensors["scales"]
        assert qweight is not None
        assert scales is not None
        layer = gemm.WQLinear_GEMM(4, awq.group_size, qweight.shape[0], scales.shape[1], False, "cpu")
        layer.qweight, layer.scales = qweight, scales
        layer.qzeros = torch.full_like(layer.qzeros, -0x77777778) if tensors["qzeros"] is None else tensors["qzeros"]
        theirs = layer(torch.eye(qweight.shape[0], dtype=torch.float16)[None])[0]
        assert torch.equal(reference.dequantize_awq(qweight, tensors["qzeros"], scales).half().T, theirs)


def test_logits_in_float32(awq: Quantised) -> None:
    tokens = random.Random(0).choices(range(VOCABULARY), k=48)
    model = load_transformer(awq.directory, FLOAT32)
    cache = model.new_cache(48)
    parts = [run(model, tokens[:30], cache), *(run(model, [token], cache) for token in tokens[30:])]
    assert_close(torch.cat(parts), awq.made.logits(tokens), 1e-4)


def test_logits_of_the_integer_kernels(awq: Quantised) -> None:
    tokens = random.Random(0).choices(range(VOCABULARY), k=48)
    model = load_transformer(awq.directory, LoadOptions())
    expected = awq.made.logits(tokens)
    cache = model.new_cache(64)
    whole = model.forward(tokens, chain(48), cache, slice(None))
    error = (whole - expected).norm() / expected.norm()
    assert error < INTEGER_TOLERANCE
    # A tree: the right continuation between two wrong ones.
    cache.discard()
    run(model, tokens[:40], cache)
    tree = model.forward([1, tokens[40], 2, tokens[41], 3], [-1, -1, 1, 1, 3], cache, slice(None))
    error = (tree[[1, 3]] - expected[40:42]).norm() / expected[40:42].norm()
    assert error < INTEGER_TOLERANCE


# Broken ones


@pytest.fixture
def one_layer(tmp_path: Path) -> Path:
    config = checkpoints.llama(**(WIDE | {"num_hidden_layers": 1}))
    awq_checkpoints.write_packed(tmp_path, config, 64, {}, lambda _: True)
    return tmp_path


DOWN = "model.layers.0.mlp.down_proj"


def tensors(**changes: Tensor | None) -> Callable[[Path], None]:
    """Replace or remove tensors of the down projection."""

    def damage(directory: Path) -> None:
        held = load_file(directory / "model.safetensors") | {f"{DOWN}.{key}": value for key, value in changes.items()}
        kept = {name: value for name, value in held.items() if value is not None}
        save_file(kept, directory / "model.safetensors")

    return damage


def section(**changes: Any) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        held = json.loads((directory / "config.json").read_text())["quantization_config"]
        configure(directory, quantization_config=held | changes)

    return damage


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no zero points": (tensors(qzeros=None), f"tensor {DOWN}.qzeros is missing"),
    "no scales": (tensors(scales=None), f"tensor {DOWN}.scales is missing"),
    "no integers": (tensors(qweight=None), f"tensor {DOWN}.qweight is missing"),
    "integers of another shape": (tensors(qweight=torch.zeros(8, 8, dtype=torch.int32)), "qweight has shape [8, 8]"),
    "integers of another type": (tensors(qweight=torch.zeros(256, 16)), "qweight is float32: supported are int32"),
    "scales of another type": (tensors(scales=torch.ones(4, 128)), "scales is float32: supported are float16"),
    "another group size": (section(group_size=32), "scales has shape"),
    "dense where not named": (section(modules_to_not_convert=["mlp"]), "gate_proj.weight is missing"),
    "outputs that fill no word": (
        lambda directory: configure(directory, intermediate_size=250),
        "mlp.gate_proj has 250 outputs, AWQ needs a multiple of 8",
    ),
}


@pytest.mark.parametrize("options", [LoadOptions(), FLOAT32], ids=["packed", "float32"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_awq_checkpoint(one_layer: Path, case: str, options: LoadOptions) -> None:
    damage, expected = BROKEN[case]
    damage(one_layer)
    with pytest.raises(TreelineError) as caught:
        load_transformer(one_layer, options)
    assert expected in str(caught.value)


def test_inputs_that_fill_no_group(tmp_path: Path) -> None:
    """Shapes that agree once the last, smaller group is left out: without a check of its own this would load."""
    config = checkpoints.llama(**(WIDE | {"num_hidden_layers": 1, "intermediate_size": 160}))
    dense = {"modules_to_not_convert": ["self_attn", "gate_proj", "up_proj"]}
    awq_checkpoints.write_packed(tmp_path, config, 32, dense, lambda name: "down_proj" in name)
    load_transformer(tmp_path, LoadOptions())
    held = load_file(tmp_path / "model.safetensors")
    tensors(scales=held[f"{DOWN}.scales"][:2].clone(), qzeros=held[f"{DOWN}.qzeros"][:2].clone())(tmp_path)
    section(group_size=64)(tmp_path)
    for options in (LoadOptions(), FLOAT32):
        with pytest.raises(TreelineError, match="down_proj has 160 inputs, AWQ needs a multiple of 64"):
            load_transformer(tmp_path, options)
