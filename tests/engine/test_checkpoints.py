"""What transformers writes is understood, whichever version wrote it, and loaded without a second copy in memory."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from engine.model.config import ModelConfig
from engine.model.loader import LoadOptions, load_transformer
from tests.engine import checkpoints
from tests.engine.checkpoints import LINEAR_ROPE, LLAMA3_ROPE, VARIANTS, Made, assert_close, configure, run

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT32 = LoadOptions(dtype=torch.float32)
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


@pytest.fixture
def copy(checkpoint: Callable[[str], Made], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("llama3-rope").directory, tmp_path / "model"))


def spell_as_transformers_4(directory: Path, rope: dict[str, Any], type_key: str) -> None:
    """Rewrite config.json as transformers 4 did: `rope_theta` beside `rope_scaling`, `torch_dtype`."""
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "rope_type")}
    scaling[type_key] = rope["rope_type"]
    changes = {"rope_theta": rope["rope_theta"], "rope_scaling": scaling, "torch_dtype": "float32"}
    configure(directory, remove=["rope_parameters", "dtype"], **changes)


@pytest.mark.parametrize("type_key", ["rope_type", "type"])
@pytest.mark.parametrize(("variant", "rope"), [("llama3-rope", LLAMA3_ROPE), ("llama-linear-rope", LINEAR_ROPE)])
def test_both_spellings_of_rope(
    checkpoint: Callable[[str], Made], tmp_path: Path, variant: str, rope: dict[str, Any], type_key: str
) -> None:
    made = checkpoint(variant)
    old = Path(shutil.copytree(made.directory, tmp_path / "old"))
    spell_as_transformers_4(old, rope, type_key)
    assert "rope_parameters" not in (old / "config.json").read_text()
    assert ModelConfig.load(old) == ModelConfig.load(made.directory)
    model = load_transformer(old, FLOAT32)
    tokens = random.Random(0).choices(range(checkpoints.VOCABULARY), k=60)
    assert_close(run(model, tokens, model.new_cache(60)), checkpoints.read(old).logits(tokens), 1e-4)


def test_plain_rope_in_both_spellings(checkpoint: Callable[[str], Made], tmp_path: Path) -> None:
    made = checkpoint("qwen2")
    old = Path(shutil.copytree(made.directory, tmp_path / "old"))
    configure(old, remove=["rope_parameters"], rope_theta=1000000.0, rope_scaling=None)
    assert ModelConfig.load(old) == ModelConfig.load(made.directory)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_is_what_transformers_says(checkpoint: Callable[[str], Made], variant: str) -> None:
    made = checkpoint(variant)
    ours, theirs = ModelConfig.load(made.directory), made.oracle.config
    for key in ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(ours, key) == getattr(theirs, key)
    for key in ("num_key_value_heads", "vocab_size", "rms_norm_eps", "tie_word_embeddings"):
        assert getattr(ours, key) == getattr(theirs, key)
    inverse = next(buffer for name, buffer in made.oracle.named_buffers() if name.endswith("rotary_emb.inv_freq"))
    assert torch.allclose(ours.rope.inverse_frequencies(ours.head_dim), inverse, rtol=1e-6, atol=0)
    assert ours.dtype == torch.float32


def test_head_dim_unstated_null_and_explicit(copy: Path, checkpoint: Callable[[str], Made]) -> None:
    assert ModelConfig.load(checkpoint("llama-head-dim").directory).head_dim == 32
    configure(copy, head_dim=None)
    assert ModelConfig.load(copy).head_dim == 16
    configure(copy, remove=["head_dim"])
    assert ModelConfig.load(copy).head_dim == 16


def test_a_sliding_window_ends_the_context_only_when_in_force(copy: Path) -> None:
    for changes, positions in (
        ({"model_type": "mistral", "sliding_window": 64}, 64),
        ({"model_type": "mistral", "sliding_window": None}, 256),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, 256),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}, 64),
        ({"model_type": "qwen2", "sliding_window": None, "use_sliding_window": True}, 256),
    ):
        configure(copy, **changes)
        assert ModelConfig.load(copy).max_position_embeddings == positions


def test_the_spellings_of_awq(copy: Path) -> None:
    """AutoAWQ in a checkpoint, AutoAWQ's own file, transformers."""
    for section in (
        {**AWQ, "modules_to_not_convert": None},
        {"quant_method": "awq", "w_bit": 4, "q_group_size": 32, "version": "GEMM", "zero_point": True},
        {**{key: value for key, value in AWQ.items() if key != "version"}, "format": "gemm", "backend": "auto"},
    ):
        configure(copy, quantization_config=section)
        awq = ModelConfig.load(copy).awq
        assert awq is not None
        assert (awq.group_size, awq.zero_point, awq.covers("model.layers.0.mlp.up_proj")) == (32, True, True)
        assert not awq.covers("lm_head")


# Runs alone in a process: what is resident when each layer has been loaded, at the end and after a pass.
MEASURE = """
import json, sys
from pathlib import Path
import torch
from engine.model.loader import LoadOptions, load_transformer

def resident(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind + ":"))

torch.set_num_threads(1)
torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64))  # the libraries' own buffers
before = {kind: resident(kind) for kind in ("RssAnon", "RssFile", "VmHWM")}
anonymous = []
options = LoadOptions(guesses=sys.argv[2] == "packed")
model = load_transformer(Path(sys.argv[1]), options, lambda done, total: anonymous.append(resident("RssAnon")))
anonymous.append(resident("RssAnon"))
read = resident("RssFile") - before["RssFile"]
model.forward([1, 2, 3, 4], [-1, 0, 1, 2], model.new_cache(8), slice(None))
anonymous.append(resident("RssAnon"))
peak = resident("VmHWM") - before["VmHWM"]
print(json.dumps({"anonymous": max(anonymous) - before["RssAnon"], "read": read, "peak": peak}))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense fp32 checkpoint of 300 MB."""
    directory = tmp_path_factory.mktemp("large")
    config = checkpoints.llama(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=6, num_attention_heads=16, num_key_value_heads=16
    )
    config.architectures, config.dtype = ["LlamaForCausalLM"], "float32"
    config.save_pretrained(directory)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in AutoModelForCausalLM.from_config(config).state_dict().items()}
    save_file({name: torch.full(shape, 0.01) for name, shape in shapes.items()}, directory / "model.safetensors")
    return directory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc: resident memory cannot be read")
def test_loading_copies_nothing(large: Path) -> None:
    """Weights are pages of the file: nothing is read before it is used, and nothing is copied when it is.

    Anonymous memory: 1.2% of the file's size measured, 10% allowed; a copy would be 100%.
    """
    size = (large / "model.safetensors").stat().st_size
    assert size > 300e6
    grown = measure(large, "dense")
    assert grown["anonymous"] < 0.1 * size
    assert grown["read"] < 0.1 * size
    assert grown["peak"] < 1.2 * size


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc: resident memory cannot be read")
def test_packing_keeps_only_what_it_packed(large: Path) -> None:
    """8 bits for 32: 34 to 36% of the file's size measured, with one layer's parts; a float copy would be 100% more."""
    size = (large / "model.safetensors").stat().st_size
    grown = measure(large, "packed")
    assert grown["anonymous"] < 0.5 * size


def measure(directory: Path, how: str) -> dict[str, int]:
    """Bytes by which a fresh process grew."""
    command = [sys.executable, "-c", MEASURE, str(directory), how]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
