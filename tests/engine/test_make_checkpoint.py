"""A large checkpoint says what the small one says from which it was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks import make_checkpoint as command
from benchmarks.checkpoints.model import Large
from benchmarks.checkpoints.shapes import SHAPES, Shape
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.peers.weights import export
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.hub import ASSETS
from engine.kernels import cpu
from engine.kernels.reference import dequantize_awq
from engine.model.loader import LoadOptions, load_transformer
from engine.request import CompletionRequest, SamplingParams
from tests.engine.awq_checkpoints import write_packed
from tests.engine.checkpoints import LLAMA3_ROPE, VOCABULARY, chain, llama, make

TARGET = ASSETS / "target"
SOURCE: dict[str, Any] = {"head_dim": 32, "rope_parameters": LLAMA3_ROPE, "rms_norm_eps": 1e-5}
TOKENS = [5, 9, 140, 3, 3, 77, 150, 12, 0, 31, 64, 8]
# Hidden sizes take every way to make up the mean square; head sizes, every way to scale the queries.
AWQ_SHAPES = {
    "8 times as wide": Shape(512, 512, 5, 16, 2, 32, 200, tied=True),
    "twice as wide heads": Shape(1024, 384, 4, 8, 2, 64, 192),
    "four times as wide heads": Shape(1024, 512, 3, 8, 4, 128, VOCABULARY, tied=True),
    "14 times as wide, Qwen": Shape(896, 384, 4, 14, 2, 64, 168, model_type="qwen2"),
}
DENSE_SHAPES = {
    "8 times as wide": Shape(512, 160, 5, 8, 4, 32, 200, tied=True),
    "twice as wide heads": Shape(384, 96, 4, 4, 2, 64, 192),
}


@pytest.fixture(scope="module")
def awq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("awq")
    write_packed(directory, llama(**SOURCE, tie_word_embeddings=True), 32, {}, lambda _: True)
    return directory


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """By whether embeddings are tied."""
    return {
        tied: make(tmp_path_factory.mktemp("dense"), llama(**SOURCE, tie_word_embeddings=tied), torch.float16).directory
        for tied in (False, True)
    }


def transformers_logits(directory: Path, scratch: Path) -> Tensor:
    """Float64 [tokens, vocab], from the dequantised weights. transformers itself computes norms in float32."""
    export(directory, scratch / directory.name)
    model = AutoModelForCausalLM.from_pretrained(
        scratch / directory.name, dtype=torch.float64, attn_implementation="eager"
    )
    with torch.inference_mode():
        return model(torch.tensor([TOKENS]), use_cache=False).logits[0]


def check_logits(source: Path, shape: Shape, trim: bool, scratch: Path) -> None:
    out = scratch / "large"
    make_checkpoint(source, shape, out, trim)
    expected, actual = transformers_logits(source, scratch), transformers_logits(out, scratch)
    assert actual.shape[1] == (VOCABULARY if trim else shape.vocab_size)
    error = (actual[:, :VOCABULARY] - expected).abs().max() / expected.abs().max()
    assert error < 3e-6
    assert float(actual.softmax(-1)[:, VOCABULARY:].sum()) < 1e-40


@pytest.mark.parametrize("trim", [False, True], ids=["full", "trimmed"])
@pytest.mark.parametrize("name", AWQ_SHAPES)
def test_logits_of_a_quantised_model_are_kept(awq: Path, name: str, trim: bool, tmp_path: Path) -> None:
    check_logits(awq, AWQ_SHAPES[name], trim, tmp_path)


@pytest.mark.parametrize("name", DENSE_SHAPES)
def test_logits_of_a_dense_model_are_kept(dense: dict[bool, Path], name: str, tmp_path: Path) -> None:
    check_logits(dense[DENSE_SHAPES[name].tied], DENSE_SHAPES[name], False, tmp_path)


def forward(directory: Path, tokens: Sequence[int]) -> Tensor:
    model = load_transformer(directory, LoadOptions())
    return model.forward(tokens, chain(len(tokens)), model.new_cache(len(tokens)), slice(None))


@pytest.mark.skipif(not cpu.available(), reason="no native kernels on this machine")
@pytest.mark.parametrize("name", AWQ_SHAPES)
def test_trimmed_tokens_are_those_of_the_full_checkpoint_bit_for_bit(awq: Path, name: str, tmp_path: Path) -> None:
    make_checkpoint(awq, AWQ_SHAPES[name], tmp_path / "full")
    make_checkpoint(awq, AWQ_SHAPES[name], tmp_path / "trimmed", trim=True)
    full, trimmed = forward(tmp_path / "full", TOKENS), forward(tmp_path / "trimmed", TOKENS)
    assert torch.equal(full[:, :VOCABULARY], trimmed)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Engine]:
    """The bundled target and a wider one made from it, both in float32."""
    out = tmp_path_factory.mktemp("bundled") / "large"
    make_checkpoint(TARGET, Shape(1536, 1536, 8, 4, 2, 128, 16400, tied=True), out)
    small, large = (
        Engine.load(EngineConfig(model=str(folder), dtype="float32", drafter="none", budget=4))
        for folder in (TARGET, out)
    )
    return small, large


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_text_is_that_of_the_bundled_target(engines: tuple[Engine, Engine], temperature: float) -> None:
    request = CompletionRequest(
        prefix="import os\n\n\ndef list_files(folder):\n    for name in os.listdir(folder):\n        ",
        suffix="\n\n\nlist_files('.')\n",
        path="files.py",
        max_tokens=16,
        sampling=SamplingParams(temperature=temperature, seed=7),
    )
    small, large = ([token for chunk in engine.complete(request) for token in chunk.tokens] for engine in engines)
    assert len(small) > 8
    assert large == small


def tensors(directory: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    return found


def test_idle_layers_are_ordinary_but_add_nothing(awq: Path, tmp_path: Path) -> None:
    make_checkpoint(awq, replace(AWQ_SHAPES["twice as wide heads"], num_hidden_layers=6), tmp_path / "out")
    stored = tensors(tmp_path / "out")

    def weight(name: str) -> Tensor:
        parts = (stored[f"model.layers.1.{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
        return dequantize_awq(*parts)

    for name in ("self_attn.o_proj", "mlp.down_proj"):
        assert not weight(name).any()
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
        norms = weight(name).norm(dim=1)  # of a row: 1 keeps the size of what comes in
        assert 0.8 < norms.mean() < 1.3
        assert norms.std() < 0.2
    words = stored["model.layers.1.mlp.up_proj.qweight"]
    assert not torch.equal(words, stored["model.layers.1.mlp.gate_proj.qweight"])
    assert not torch.equal(words, stored["model.layers.3.mlp.up_proj.qweight"])


def test_shards_are_small_and_their_index_is_complete(awq: Path, tmp_path: Path) -> None:
    shape, limit = AWQ_SHAPES["twice as wide heads"], 1_000_000
    make_checkpoint(awq, shape, tmp_path / "whole")
    make_checkpoint(awq, shape, tmp_path / "parts", shard_bytes=limit)
    files = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(files) > 3
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert set(index["weight_map"]) == set(parts)
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in parts.values())
    assert max(file.stat().st_size for file in files) < limit + 100_000  # and the header
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("name", "source", "size"),
    [
        ("llama-3.1-70b", "target", 39_767_785_472),  # as published
        ("llama-3.1-8b", "target", 5_727_854_592),
        ("codedrafter-500m", "drafter", 1_011_912_704),
    ],
)
def test_true_size(name: str, source: str, size: int) -> None:
    planned = Large.open(ASSETS / source, SHAPES[name]).tensors()
    assert sum(tensor.bytes for tensor in planned) == size


def test_prompts_and_tokens_stay_those_of_the_source(tmp_path: Path) -> None:
    shape = Shape(2048, 1536, 8, 4, 2, 128, 16400, tied=True)
    make_checkpoint(TARGET, shape, tmp_path / "out", trim=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (TARGET / name).read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (TARGET, tmp_path / "out"))
    kept = ("rope_theta", "rope_scaling", "max_position_embeddings", "eos_token_id", "hidden_act")
    assert [after[key] for key in kept] == [before[key] for key in kept]


class TestRefusals:
    def test_an_existing_folder_is_left_alone(self, awq: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with pytest.raises(TreelineError, match="out exists"):
            make_checkpoint(awq, AWQ_SHAPES["8 times as wide"], tmp_path / "out")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_hidden_layers": 2}, "num_hidden_layers is 2, the source needs 3"),
            ({"vocab_size": 100}, "vocab_size is 100, the source needs 160"),
            ({"intermediate_size": 256}, "intermediate_size is 256, the source needs 384"),
            ({"hidden_size": 520}, "hidden_size is 520, no multiple of the source's 64"),
            ({"head_dim": 48}, "head_dim is 48, no multiple of the source's 32"),
            ({"num_attention_heads": 2}, "1 query heads for each key/value head"),
            ({"hidden_size": 256}, "hidden_size is 256"),
        ],
    )
    def test_a_shape_that_cannot_hold_the_source(
        self, awq: Path, changes: dict[str, int], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(TreelineError, match=message):
            make_checkpoint(awq, replace(AWQ_SHAPES["8 times as wide"], **changes), tmp_path / "out")
        assert not list(tmp_path.iterdir())

    def test_two_vocabulary_matrices_in_the_place_of_one(self, dense: dict[bool, Path], tmp_path: Path) -> None:
        with pytest.raises(TreelineError, match="has one of its own"):
            make_checkpoint(dense[False], DENSE_SHAPES["8 times as wide"], tmp_path / "out")

    def test_a_source_with_biases(self, tmp_path: Path) -> None:
        source = make(tmp_path / "source", llama(attention_bias=True), torch.float16).directory
        with pytest.raises(TreelineError, match="without biases"):
            make_checkpoint(source, DENSE_SHAPES["twice as wide heads"], tmp_path / "out")

    def test_a_source_that_half_precision_would_round(self, tmp_path: Path) -> None:
        source = make(tmp_path / "source", llama(**SOURCE), torch.float32).directory
        with pytest.raises(TreelineError, match="does not fit half precision"):
            make_checkpoint(source, DENSE_SHAPES["twice as wide heads"], tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["source"]

    def test_a_disk_that_is_too_small(self, awq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(command.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(TreelineError, match=r"has 0\.0 GB free, 0\.3 are needed"):
            make_checkpoint(awq, AWQ_SHAPES["8 times as wide"], tmp_path / "out")
        assert not list(tmp_path.iterdir())

    def test_an_interrupted_run_leaves_nothing(
        self, awq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "write_sharded", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_checkpoint(awq, AWQ_SHAPES["8 times as wide"], tmp_path / "out")
        assert not list(tmp_path.iterdir())
