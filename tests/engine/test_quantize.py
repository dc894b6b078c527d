"""`treeline quantize`: what AutoAWQ writes through it, and everything that it refuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from engine import autoawq, calibration
from engine import quantize as module
from engine.calibration import ROW, perplexity, read_calibration
from engine.errors import TreelineError
from engine.extras import installing
from engine.model.loader import LoadOptions, load_transformer
from engine.quantize import Job, Report, quantise
from tests.engine.awq_checkpoints import auto_awq
from tests.engine.checkpoints import chain

ASSETS = Path(__file__).parents[2] / "engine" / "assets"
TOKENIZER = ASSETS / "drafter" / "tokenizer.json"
DRAFTER = ASSETS / "drafter"  # dense, trained, and small: what quantising costs it can be measured
SOURCES = Path(__file__).parents[2] / "engine"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    auto_awq("awq")
    target = tmp_path_factory.mktemp("quantised") / "new" / "awq"
    return target, quantise(Job(DRAFTER, target, 64, SOURCES, 16))


def test_it_costs_little_of_the_perplexity(done: tuple[Path, Report]) -> None:
    _, report = done
    assert report.perplexity_before < report.perplexity_after < 1.1 * report.perplexity_before
    assert report.calibration_rows == 16
    assert report.judged_tokens >= 4 * (ROW - 1)


def test_the_sizes_are_those_of_the_files(done: tuple[Path, Report]) -> None:
    target, report = done
    assert report.size_before == (DRAFTER / "model.safetensors").stat().st_size
    assert report.size_after == (target / "model.safetensors").stat().st_size < report.size_before


def test_autoawq_reads_back_what_it_wrote(done: tuple[Path, Report]) -> None:
    """AutoAWQ's own dequantisation, in transformers' model, says what the engine says."""
    target, _ = done
    unpack = auto_awq("awq.utils.packing_utils").dequantize_gemm
    config = json.loads((target / "config.json").read_text())
    assert (
        config["quantization_config"] | {"bits": 4, "group_size": 64, "version": "gemm"}
        == (config["quantization_config"])
    )
    tensors = load_file(target / "model.safetensors")
    assert "lm_head.weight" not in tensors
    model = AutoModelForCausalLM.from_pretrained(DRAFTER, dtype=torch.float32)
    weights = model.state_dict()
    for name in [name for name in tensors if name.endswith(".qweight")]:
        base = name.removesuffix(".qweight")
        zeros, scales = tensors.pop(f"{base}.qzeros"), tensors.pop(f"{base}.scales")
        weights[f"{base}.weight"] = unpack(tensors.pop(name), zeros, scales.float(), 4, 64).t()
    weights |= {name: tensor.float() for name, tensor in tensors.items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    ids = list(range(100, 160))
    expected = model(torch.tensor([ids])).logits[0]
    ours = load_transformer(target, LoadOptions(dtype=torch.float32))
    logits = ours.forward(ids, chain(len(ids)), ours.new_cache(len(ids)), slice(None))
    torch.testing.assert_close(logits, expected.detach(), atol=2e-3, rtol=1e-3)


def test_companions_come_along(done: tuple[Path, Report]) -> None:
    target, _ = done
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (target / name).read_bytes() == (DRAFTER / name).read_bytes()
    assert AutoTokenizer.from_pretrained(target).decode([300]) == AutoTokenizer.from_pretrained(DRAFTER).decode([300])
    assert sorted(target.parent.iterdir()) == [target]


def test_perplexity_is_that_of_transformers() -> None:
    rows = read_calibration(TOKENIZER, SOURCES, 16).judged[:2]
    model = AutoModelForCausalLM.from_pretrained(DRAFTER, dtype=torch.float32)
    with torch.inference_mode():
        losses = [float(model(torch.tensor([row]), labels=torch.tensor([row])).loss) for row in rows]
    assert perplexity(DRAFTER, rows, "") == pytest.approx(math.exp(sum(losses) / 2), rel=1e-4)


def test_no_row_is_both_shown_and_judged() -> None:
    rows = read_calibration(TOKENIZER, SOURCES, 40)
    assert len(rows.shown) == 40
    assert all(len(row) == ROW for row in [*rows.shown, *rows.judged])
    assert not {tuple(row) for row in rows.shown} & {tuple(row) for row in rows.judged}
    assert read_calibration(TOKENIZER, SOURCES, 40) == rows
    assert read_calibration(TOKENIZER, None, 16).origin == calibration.PYTHON


def test_the_least_text_that_does(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    middle = "<|fim_middle|>"  # one token
    path.write_text(middle * (20 * ROW))
    rows = read_calibration(TOKENIZER, path, 128)
    assert (len(rows.shown), len(rows.judged)) == (16, 4)
    path.write_text(middle * (20 * ROW - 1))
    with pytest.raises(TreelineError, match="at least 10240 are needed"):
        read_calibration(TOKENIZER, path, 128)


def test_a_long_text_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "PIECE", 700)
    path = tmp_path / "long.txt"
    path.write_text("".join(f"value_{number} = {number}\n" for number in range(9000)))
    lines = tmp_path / "long.jsonl"
    lines.write_text("".join(json.dumps({"text": f"x = {number}\n" * 60}) + "\n" for number in range(200)))
    assert len(read_calibration(TOKENIZER, path, 64).shown) == 64
    assert len(read_calibration(TOKENIZER, lines, 16).shown) == 16


def test_odd_names_and_halves_of_characters_are_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "pens\udce9e.py").write_text("value = 1\n" * 3000)
    assert len(read_calibration(TOKENIZER, folder, 16).shown) == 16
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "half \\ud83d of it"}\n' + f"{json.dumps({'text': 'x = 1' * 4000})}\n" * 4)
    assert len(read_calibration(TOKENIZER, path, 16).shown) == 16


def test_lines_of_json_may_spell_special_tokens(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    line = json.dumps({"text": "<|fim_middle|>x = 1\n" * 400})
    path.write_text(f"{line}\n\n{line}\n" * 8)
    rows = read_calibration(TOKENIZER, path, 16)
    middle = Tokenizer.from_file(str(TOKENIZER)).token_to_id("<|fim_middle|>")
    assert all(middle in row for row in rows.shown)


def dense(folder: Path, **changes: Any) -> Path:
    """A small random checkpoint with the bundled tokenizer."""
    shape: dict[str, Any] = {
        "vocab_size": 16384,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    AutoModelForCausalLM.from_config(LlamaConfig(**(shape | changes))).save_pretrained(folder)
    shutil.copy(TOKENIZER, folder)
    return folder


def refused(job: Job) -> str:
    """The complaint, after which the target is as it was, and nothing lies beside it."""
    before = sorted(job.target.parent.rglob("*"))
    with pytest.raises(TreelineError) as caught:
        quantise(job)
    assert sorted(job.target.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_quantised_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "is quantised already (AWQ, group size 64)" in refused(Job(ASSETS / "target", tmp_path / "out"))


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    source = dense(tmp_path / "in")
    (source / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused(Job(source, tmp_path / "out", 64))


def test_an_unsupported_family_is_refused(tmp_path: Path) -> None:
    source = dense(tmp_path / "in")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    assert "model_type is 'mamba': supported are llama, mistral, qwen2" in refused(Job(source, tmp_path / "out", 64))


def test_shapes_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    source = dense(tmp_path / "in")
    assert "intermediate_size of 192 is no multiple of the group size 128" in refused(Job(source, tmp_path / "out"))
    odd = dense(tmp_path / "odd", intermediate_size=224)
    assert "multiples of 64 outputs only" in refused(Job(odd, tmp_path / "out", 32))


def test_too_little_memory_and_disk_are_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = dense(tmp_path / "in")
    monkeypatch.setattr(module, "available_memory", lambda: 600 * 2**20)
    assert "of memory" in (complaint := refused(Job(source, tmp_path / "out", 64)))
    assert "0.6 GB are available" in complaint
    monkeypatch.setattr(module, "free_space", lambda place: (place, 1000))
    assert "0.0 GB free: make room" in refused(Job(source, tmp_path / "out", 64))


def test_a_target_in_use_is_refused(tmp_path: Path) -> None:
    source, target = dense(tmp_path / "in"), tmp_path / "out"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    assert "is not empty" in refused(Job(source, target, 64))
    assert (target / "notes.txt").read_text() == "mine"
    assert "is a file" in refused(Job(source, target / "notes.txt", 64))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("short.txt", b"x = 1\n" * 400, "is too short to calibrate with"),
        ("empty.txt", b"", "it gives 0 tokens"),
        ("picture.txt", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("bad.jsonl", b'{"text": "x"}\n{"words": 1}\n', 'bad.jsonl:2 is no JSON object with a string "text"'),
        ("texts.jsonl", b'{"text": ["a"]}\n', "texts.jsonl:1 is no JSON object"),
        ("list.jsonl", b"[1]\n", "list.jsonl:1 is no JSON object"),
        ("number.jsonl", b'{"text": 1}\n', "number.jsonl:1 is no JSON object"),
    ],
)
def test_calibration_text_that_does_not_do(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert complaint in refused(Job(DRAFTER, tmp_path / "out", 64, tmp_path / name))
    assert "cannot be read" in refused(Job(DRAFTER, tmp_path / "out", 64, tmp_path / "absent.txt"))


def test_without_autoawq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "awq", None)
    assert installing("quantize") in refused(Job(DRAFTER, tmp_path / "out", 64, SOURCES, 16))


def test_weights_beyond_float16_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"model.norm.weight": torch.tensor([1e30])}
    monkeypatch.setattr(autoawq, "quantise", lambda *_: tensors)
    monkeypatch.setattr(autoawq, "require", lambda: None)
    assert "model.norm.weight does not fit float16" in refused(Job(DRAFTER, tmp_path / "out", 64, SOURCES, 16))


def test_large_checkpoints_are_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD", 2**20)
    monkeypatch.setattr(autoawq, "require", lambda: None)
    tensors = load_file(DRAFTER / "model.safetensors")
    monkeypatch.setattr(autoawq, "quantise", lambda *_: dict(tensors))
    monkeypatch.setattr(module, "perplexity", lambda *_: 1.0)
    quantise(Job(DRAFTER, tmp_path / "out", 64, SOURCES, 16))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    assert len(set(index["weight_map"].values())) > 2
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / "out" / file)[name], tensors[name])


def command(target: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "engine", "quantize", str(DRAFTER), str(target), "--samples", "16", *options]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    auto_awq("awq")
    arguments = command(tmp_path / "out", "--group-size", "64", "--calibration", str(SOURCES))
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        until(lambda: any(tmp_path.iterdir()))  # the new checkpoint is being made beside its place
        assert not (tmp_path / "out").exists()
        os.kill(process.pid, number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in errors + output


def test_wrong_usage(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path / "out", "--group-size", "48"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected 32, 64 or 128" in done.stderr
