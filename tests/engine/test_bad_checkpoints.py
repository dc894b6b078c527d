"""Checkpoints with one thing wrong, given to the command line: status 1, one line that names it, no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import PairPaths
from safetensors.torch import load_file, save_file
from small_tokenizers import trained

from engine.cli import main

Damage = Callable[[Path], object]


@pytest.fixture
def model(pair_paths: PairPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    return Path(shutil.copytree(pair_paths.target, tmp_path / "model"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.py"
    path.write_text("def add(a, b):\n    return ")
    return path


def configure(**changes: Any) -> Damage:
    def damage(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def overwrite(name: str, content: bytes) -> Damage:
    return lambda model: (model / name).write_bytes(content)


def remove(name: str) -> Damage:
    return lambda model: (model / name).unlink()


def cut(name: str, share: float) -> Damage:
    def damage(model: Path) -> None:
        data = (model / name).read_bytes()
        (model / name).write_bytes(data[: int(share * len(data))])

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(model: Path) -> None:
        weights = load_file(model / "model.safetensors")
        change(weights)
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})

    return damage


def shard(index: object) -> Damage:
    def damage(model: Path) -> None:
        (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
        (model / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))

    return damage


def pickle_only(model: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, model / "pytorch_model.bin")


def only(name: str) -> Damage:
    def damage(model: Path) -> None:
        for path in model.iterdir():
            if path.name != name:
                path.unlink()

    return damage


def awq(model: Path) -> None:
    quantisation = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    configure(quantization_config=quantisation)(model)


NORM = "model.norm.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
SHARDS = {"model.norm.weight": "model-00001-of-00002.safetensors", "lm_head.weight": "model-00002-of-00002.safetensors"}
QUANTISED = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}

CASES: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "no config": (remove("config.json"), ("config.json does not exist",)),
    "config cut": (
        cut("config.json", 0.5),
        (
            "config.json",
            "cannot be read as JSON",
        ),
    ),
    "config is a list": (overwrite("config.json", b"[]"), ("config.json",)),
    "config not UTF-8": (
        overwrite("config.json", b"\xff\xfe{}"),
        (
            "config.json",
            "cannot be read as JSON",
        ),
    ),
    "architecture": (configure(model_type="gpt2"), ("config.json: model_type is 'gpt2'", "llama, mistral, qwen2")),
    "activation": (configure(hidden_act="gelu"), ("config.json: hidden_act is 'gelu'", "silu")),
    "rope": (
        configure(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}),
        ("rope_type is 'yarn'", "llama3"),
    ),
    "size": (configure(hidden_size=-64), ("config.json: hidden_size is -64",)),
    "size text": (configure(vocab_size="many"), ("config.json: vocab_size is 'many'",)),
    "heads": (configure(num_key_value_heads=3), ("config.json: num_key_value_heads is 3",)),
    "dtype": (configure(dtype="float8"), ("config.json: dtype is 'float8'", "bfloat16")),
    "remote code": (configure(auto_map={"AutoModel": "modeling.Evil"}), ("config.json: auto_map", "never runs")),
    "gptq": (configure(quantization_config=QUANTISED | {"quant_method": "gptq"}), ("'gptq'", "AWQ, 4 bits")),
    "awq bits": (configure(quantization_config=QUANTISED | {"bits": 3}), ("bits is 3", "AWQ, 4 bits")),
    "awq gemv": (configure(quantization_config=QUANTISED | {"version": "gemv"}), ("'gemv'", "version gemm")),
    "awq group": (configure(quantization_config=QUANTISED | {"group_size": 48}), ("group_size is 48", "32, 64, 128")),
    "awq without its tensors": (awq, ("tensor", "q_proj.qweight is missing")),
    "no tokenizer": (remove("tokenizer.json"), ("no tokenizer.json there",)),
    "tokenizer cut": (cut("tokenizer.json", 0.5), ("tokenizer.json: cannot be read as JSON",)),
    "tokenizer empty": (overwrite("tokenizer.json", b"{}"), ("tokenizer.json: no model.vocab",)),
    "tokenizer too large": (lambda model: write_tokenizer(model, 1800), ("the tokenizer has 1800 tokens",)),
    "no weights": (remove("model.safetensors"), ("holds no .safetensors file",)),
    "nothing": (only("tokenizer.json"), ("config.json does not exist",)),
    "pickle": (pickle_only, ("pytorch_model.bin is a pickle", "convert it", "safe_serialization")),
    "weights cut": (cut("model.safetensors", 0.6), ("model.safetensors is truncated or damaged", "download it again")),
    "weights cut in the header": (cut("model.safetensors", 0.0005), ("model.safetensors is truncated or damaged",)),
    "weights empty": (overwrite("model.safetensors", b""), ("model.safetensors is truncated or damaged",)),
    "weights are noise": (overwrite("model.safetensors", b"\x93NUMPY" * 99), ("model.safetensors is truncated",)),
    "tensor missing": (tensors(lambda w: w.pop(NORM)), ("tensor model.norm.weight is missing",)),
    "tensor shape": (
        tensors(lambda w: w.update({DOWN: torch.zeros(64, 64)})),
        (f"{DOWN} has shape [64, 64]", "asks for [64, 128]"),
    ),
    "tensor type": (
        tensors(lambda w: w.update({DOWN: torch.zeros(64, 128, dtype=torch.int64)})),
        (f"{DOWN} is int64", "float32"),
    ),
    "tensor rank": (tensors(lambda w: w.update({NORM: torch.zeros(8, 8)})), (f"{NORM} has shape [8, 8]",)),
    "shard missing": (shard({"weight_map": SHARDS}), ("model-00002-of-00002.safetensors is missing",)),
    "index cut": (shard('{"weight_map": {'), ("model.safetensors.index.json is not a safetensors index",)),
    "index without map": (shard({}), ("model.safetensors.index.json is not a safetensors index",)),
    "index outside": (shard({"weight_map": {NORM: "../x.safetensors"}}), ("names '../x.safetensors'",)),
}


def write_tokenizer(model: Path, size: int) -> None:
    for name, text in trained("treeline", size):
        if name != "config.json":
            (model / name).write_text(text, encoding="utf-8")


def complain(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run the command, which must fail, and return its one line."""
    assert main(arguments) == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("treeline: ")
    assert printed.err.count("\n") == 1
    assert "internal error" not in printed.err
    return printed.err


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_target_is_named(model: Path, source: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    damage, complaints = CASES[name]
    damage(model)
    line = complain(capfd, ["complete", str(source), "--model", str(model)])
    for complaint in complaints:
        assert complaint in line


def test_a_drafter_is_checked_as_well(
    pair_paths: PairPaths, model: Path, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["complete", str(source), "--model", str(pair_paths.target), "--drafter", str(model)]
    write_tokenizer(model, 1400)
    line = complain(capfd, arguments)
    assert "1400" in line
    assert "1500" in line
    assert "--drafter none" in line
    cut("model.safetensors", 0.6)(model)
    shutil.copy(pair_paths.target / "tokenizer.json", model)
    assert "model.safetensors is truncated or damaged" in complain(capfd, arguments)
    shutil.rmtree(model)
    assert "the drafter" in complain(capfd, arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(pair_paths: PairPaths, source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = complain(capfd, ["complete", str(source), "--model", str(pair_paths.target), "--device", "cuda"])
    assert "no GPU" in line


def test_an_unknown_layout_lists_those_that_exist(
    pair_paths: PairPaths, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = complain(capfd, ["complete", str(source), "--model", str(pair_paths.target), "--layout", "sideways"])
    assert "sideways" in line
    assert "plain" in line


def test_the_same_checkpoint_unharmed_completes(
    pair_paths: PairPaths, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for drafter in ("none", str(pair_paths.target)):
        arguments = [
            "complete",
            str(source),
            "--model",
            str(pair_paths.target),
            "--drafter",
            drafter,
            "--json",
            "--max-tokens",
            "5",
        ]
        assert main(arguments) == 0
        printed = capfd.readouterr()
        assert printed.err == ""
        answer = json.loads(printed.out)
        assert len(answer["tokens"]) <= 5
        assert answer["stats"]["new_tokens"] == len(answer["tokens"])
