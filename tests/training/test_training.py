"""The training code's own claims: losses, growth, layouts, filters, schedules."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from training.common import TrainingError
from training.export import check_logits, write_folder
from training.layouts import FIRST_MIX, Encoder, SampleMix, build_sample, choose_cut
from training.loss import SampledVocabulary, cross_entropy, divergence
from training.model import Llama, LlamaShape, grow
from training.schedule import Plan, parse_knots, parse_phases
from training.source_filter import Deduplicator, path_allowed, text_allowed

ASSETS = Path(__file__).parents[2] / "engine" / "assets"
SMALL = LlamaShape(hidden=64, layers=2, heads=2, kv_heads=1, head_dim=32, intermediate=96, vocabulary=300)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(Tokenizer.from_file(str(ASSETS / "target" / "tokenizer.json")))


def small_model(seed: int) -> Llama:
    torch.manual_seed(seed)
    model = Llama(SMALL, torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj", "down_proj")):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_chunked_loss_and_gradients_equal_torch() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(600, 32, requires_grad=True)
    weight = torch.randn(300, 32, requires_grad=True)
    targets = torch.randint(0, 300, (600,))
    expected = F.cross_entropy(hidden @ weight.t(), targets)
    expected_grads = torch.autograd.grad(expected, (hidden, weight))
    loss = cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, (hidden, weight)), expected_grads, atol=1e-6, rtol=1e-4)


def test_sampled_softmax_is_exact_when_all_classes_are_drawn_and_unbiased_for_the_partition() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(64, 16), torch.randn(300, 16) * 0.3, torch.randint(0, 300, (64,))
    generator = torch.Generator().manual_seed(1)
    exact = cross_entropy(hidden, weight, targets)
    everything = SampledVocabulary(torch.arange(10), extra=300)
    torch.testing.assert_close(everything.cross_entropy(hidden, weight, targets, generator), exact)
    half = SampledVocabulary(torch.arange(10), extra=120)
    drawn = [float(half.cross_entropy(hidden, weight, targets, generator)) for _ in range(200)]
    assert abs(sum(drawn) / len(drawn) - float(exact)) < 0.02


def test_divergence_equals_torch() -> None:
    torch.manual_seed(0)
    student = torch.randn(300, 16, requires_grad=True)
    weight, teacher, teacher_weight = torch.randn(50, 16), torch.randn(300, 24), torch.randn(50, 24)
    wanted = (teacher @ teacher_weight.t()).log_softmax(-1)
    expected = F.kl_div((student @ weight.t()).log_softmax(-1), wanted, log_target=True, reduction="batchmean")
    loss = divergence(student, weight, torch.zeros(50), (teacher, teacher_weight))
    torch.testing.assert_close(loss, expected)
    ours, theirs = torch.autograd.grad(loss, student)[0], torch.autograd.grad(expected, student)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_growing_keeps_the_function() -> None:
    model = small_model(3)
    ids = torch.randint(0, 300, (2, 37))
    torch.testing.assert_close(grow(model, 6).logits(ids), model.logits(ids))
    with pytest.raises(ValueError, match="not a multiple"):
        grow(model, 3)


def test_exported_logits_equal_transformers(tmp_path: Path) -> None:
    model = small_model(5)
    write_folder(model, tmp_path, ASSETS / "target", torch.float32)
    assert check_logits(model, tmp_path) < 1e-4


@pytest.mark.parametrize("mix", [SampleMix(fim=1.0), FIRST_MIX, SampleMix(fim=1.0, suffix_first=0.0, header=1.0)])
def test_samples_fit_their_room_and_lose_no_text(encoder: Encoder, mix: SampleMix) -> None:
    text = Path(__file__).read_text(encoding="utf-8")[:1500]
    for seed in range(60):
        rng = random.Random(seed)
        assert len(build_sample(encoder, "a/b.py", text, False, 100, rng, mix)) <= 100
        whole = build_sample(
            encoder, "a/b.py", text, True, 4000, random.Random(seed), SampleMix(fim=1.0, empty_suffix=0)
        )
        parts = [encoder.decode(part) for part in split_at_marks(whole, encoder)]
        assert whole[-1] == encoder.end
        assert sum(len(part.removeprefix("a/b.py\n")) for part in parts) == len(text)


def split_at_marks(ids: list[int], encoder: Encoder) -> list[list[int]]:
    marks = {encoder.end, encoder.prefix, encoder.middle, encoder.suffix, encoder.file}
    parts: list[list[int]] = [[]]
    for token in ids:
        if token in marks:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def test_cuts_stay_inside_the_text() -> None:
    text = "def f(x):\n    if x:\n        return 1\n\n    return 2\n"
    for seed in range(300):
        cut = choose_cut(text, random.Random(seed))
        assert 0 <= cut.start <= cut.end <= len(text)


def test_filters() -> None:
    code = "def add(left, right):\n    total = left + right\n    return total\n\n\n" * 8
    assert text_allowed(code)
    assert not text_allowed("import flask\n" + code)
    assert not text_allowed("# Automatically generated, do not edit\n" + code)
    assert not text_allowed(code + "x = '" + "a" * 400 + "'\n")
    assert path_allowed("pkg/core.py")
    assert not path_allowed("pip/_vendor/core.py")
    assert not path_allowed("x/django/core.py")
    seen = Deduplicator()
    assert seen.admit(code)
    assert not seen.admit(code + "\n# one more line\n")


def test_plan() -> None:
    plan = Plan(parse_phases("10x512x2sf,20x1024x4"), parse_knots("0:0.5,10:1,30:0"))
    assert plan.steps == 30
    assert plan.phase(9).sampled
    assert plan.phase(10).layers == 4
    assert [plan.scale(s) for s in (0, 5, 10, 20, 40)] == [0.5, 0.75, 1.0, 0.5, 0.0]
    with pytest.raises(TrainingError, match="10x512"):
        parse_phases("10x512")
    with pytest.raises(TrainingError, match="do not rise"):
        parse_knots("5:1,5:2")
