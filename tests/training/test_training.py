"""The training code's own claims: losses, growth, layouts, schedules, what a run goes on from."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.engine.awq_checkpoints import auto_awq
from training.average import average
from training.batches import BatchSource, Corpus, excerpt
from training.checkpoints import load_reference, training_state
from training.common import TrainingError
from training.curves import panel, read_log
from training.data import Document
from training.export import check_logits, write_folder
from training.layouts import Encoder, SampleMix, Source, build_sample, choose_cut
from training.loss import SampledVocabulary, cross_entropy, divergence
from training.model import Llama, LlamaShape, grow
from training.rollouts import continue_rows
from training.schedule import Plan, parse_knots, parse_phases

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


@pytest.mark.parametrize(
    "mix",
    [SampleMix(fim=1.0), SampleMix(fim=1.0, suffix_first=0.0, header=1.0), SampleMix(fim=0.0, header=1.0, context=1.0)],
)
def test_samples_fit_their_room_and_lose_no_text(encoder: Encoder, mix: SampleMix) -> None:
    text = Path(__file__).read_text(encoding="utf-8")[:1500]
    source = Source("a/b.py", text, whole=True)
    for seed in range(60):
        rng = random.Random(seed)
        short = Source("a/b.py", text, False, (("a/c.py", "import b\n"), ("a/d.py", text)))
        assert len(build_sample(encoder, short, 100, rng, mix)) <= 100
        whole = build_sample(encoder, source, 4000, random.Random(seed), SampleMix(fim=1.0, empty_suffix=0))
        parts = [encoder.decode(part) for part in split_at_marks(whole, encoder)]
        assert whole[-1] == encoder.end
        assert sum(len(part.removeprefix("a/b.py\n")) for part in parts) == len(text)


def test_no_cut_splits_a_token_where_the_suffix_comes_first(encoder: Encoder) -> None:
    source = Source("a/b.py", Path(__file__).read_text(encoding="utf-8")[:1500], whole=True)
    for seed in range(60):
        ids = build_sample(encoder, source, 4000, random.Random(seed), SampleMix(fim=1.0, suffix_first=1.0))
        written = ids[ids.index(encoder.middle) + 1 : -1]
        assert written == encoder.encode(encoder.decode(written))


def test_only_a_whole_middle_ends_the_text(encoder: Encoder) -> None:
    """A row's end cuts some middles short: they do not teach the model to stop there."""
    text = "value = 1\n" * 100
    lasts = {
        build_sample(encoder, Source("a", text, True), 80, random.Random(s), SampleMix(1.0))[-1] for s in range(60)
    }
    assert lasts == {encoder.end, encoder.pad}


def test_other_files_stand_before_the_own_header_and_take_a_third_at_most(encoder: Encoder) -> None:
    others = (("p/far.py", "x = 1\n"), ("p/huge.py", "y = 2\n" * 300), ("p/near.py", "z = 3\n"))
    source = Source("p/own.py", "import near\n", True, others)
    ids = build_sample(encoder, source, 400, random.Random(0), SampleMix(fim=0.0, header=1.0))
    assert encoder.decode(ids) == (
        "<|file_sep|>p/far.py\nx = 1\n<|file_sep|>p/near.py\nz = 3\n<|file_sep|>p/own.py\nimport near\n<|endoftext|>"
    )


def test_a_package_is_read_by_the_root_of_its_length() -> None:
    """Nine times as long, three times as often; within it by length, and every position is met."""
    sizes = {"small/a.py": 100, "large/a.py": 600, "large/b.py": 300}
    corpus = Corpus.of([Document(path.split("/")[0], path, "python", "x" * size) for path, size in sizes.items()])
    found = [corpus.locate((place + 0.5) / 4000) for place in range(4000)]
    counts = Counter(document.path for document, _ in found)
    assert counts == {"small/a.py": 1000, "large/a.py": 2000, "large/b.py": 1000}
    for path, size in sizes.items():
        assert {position for document, position in found if document.path == path} == set(range(size))
    assert corpus.locate(0.9999999999999999)[1] == 299


def test_other_files_are_of_the_package_and_share_names() -> None:
    texts = {
        "near.py": "def scale_image(width, height):\n    return width\n",
        "far.py": "import os\n" * 9,
        "own.py": "",
    }
    documents = [Document("p", f"p/{path}", "python", text or "scale_image(width)\n") for path, text in texts.items()]
    documents.append(Document("q", "q/other.py", "python", "scale_image(width, height)\n"))
    corpus = Corpus.of(documents)
    found = [corpus.others(documents[2], documents[2].text, random.Random(seed)) for seed in range(40)]
    assert {path for others in found for path, _ in others} <= {"p/near.py", "p/far.py"}
    assert all(others[-1][0] == "p/near.py" for others in found if any(path == "p/near.py" for path, _ in others))
    assert corpus.others(documents[3], "x", random.Random(0)) == ()


@pytest.mark.parametrize("position", [0, 7, 30, 59])
def test_excerpts_are_whole_lines(position: int) -> None:
    text = "".join(f"line {number}\n" for number in range(8)) + "last"
    part = excerpt(text, position, 24)
    assert part.endswith("\n")
    assert part in text
    assert text[: text.index(part)] == "" or text[: text.index(part)].endswith("\n")


def test_rows_depend_on_their_number_alone(encoder: Encoder) -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    corpus = Corpus.of([Document("p", f"p/{name}.py", "python", text) for name in "abc"])
    mix = SampleMix(fim=0.7, header=0.8, context=0.6)
    rows = [BatchSource(corpus, encoder, 5).row(number, 256, mix) for number in (3, 9)]
    source = BatchSource(corpus, encoder, 5)
    assert [source.row(number, 256, mix) for number in (9, 3)] == rows[::-1]
    assert all(len(row) == 257 for row in rows)


@pytest.mark.parametrize("name", ["target", "drafter"])
def test_a_run_goes_on_from_a_published_folder(name: str) -> None:
    """The bundled weights, AWQ or not, in the trainer's model: the logits are transformers'."""
    if name == "target":
        auto_awq("awq")
    saved = training_state(ASSETS / name)
    model = Llama(replace(LlamaShape(), layers=saved["layers"]), torch.float32)
    model.load_state_dict(saved["model"])
    ids = torch.arange(100, 140)[None]
    expected = load_reference(ASSETS / name)(ids).logits
    torch.testing.assert_close(model.logits(ids), expected, atol=1e-3, rtol=1e-4)


def test_generations_are_averaged_weight_by_weight(tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "drafter", tmp_path / "later")
    ours = load_file(ASSETS / "drafter" / "model.safetensors")
    theirs = {name: tensor + torch.randn_like(tensor) for name, tensor in ours.items()}
    save_file(theirs, tmp_path / "later" / "model.safetensors")
    mean = average(tmp_path / "later", ASSETS / "drafter", 0.25)
    for name, tensor in mean.items():
        assert tensor.dtype == ours[name].dtype
        assert torch.equal(tensor, (0.75 * theirs[name].float() + 0.25 * ours[name].float()).to(tensor.dtype))


def test_only_generations_of_one_model_are_averaged_and_then_quantised() -> None:
    auto_awq("awq")
    with pytest.raises(TrainingError, match="not of one shape"):
        average(ASSETS / "drafter", ASSETS / "target", 0.5)
    with pytest.raises(TrainingError, match="average first"):
        average(ASSETS / "target", ASSETS / "target", 0.5)


def test_what_the_target_writes_is_its_own(encoder: Encoder) -> None:
    """Cold sampling is transformers' greedy decoding; the prompts stay as they were."""
    model = load_reference(ASSETS / "drafter")
    prompts = torch.tensor([encoder.encode("def add(left, right):\n    return ")] * 2)
    prompts[1, 1] += 1
    ours = continue_rows(model, prompts, 12, 1e-4)
    model.generation_config.eos_token_id = None
    theirs = model.generate(prompts, do_sample=False, max_new_tokens=12, attention_mask=torch.ones_like(prompts))
    torch.testing.assert_close(ours, theirs)


def test_rollouts_take_their_share_of_the_rows(encoder: Encoder) -> None:
    corpus = Corpus.of([Document("p", "p/a.py", "python", Path(__file__).read_text(encoding="utf-8"))])
    rollouts = torch.full((3, 65), 9, dtype=torch.int32)
    source = BatchSource(corpus, encoder, 0, rollouts, 0.5)
    rows = [source.row(number, 128, SampleMix()) for number in range(60)]
    assert all(len(row) == 129 for row in rows)
    assert 18 <= sum(set(row) == {9} for row in rows) <= 42


def test_a_log_keeps_the_last_of_steps_that_came_twice(tmp_path: Path) -> None:
    rows = [
        {"step": 10, "loss": 3.0, "tokens": 1_000_000},
        {"step": 20, "loss": 9.0, "tokens": 2_000_000},
        {"step": 20, "loss": 2.5, "tokens": 2_000_000, "heldout": 2.75},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = read_log(tmp_path / "train.jsonl")
    assert curves == {"loss": [(1.0, 3.0), (2.0, 2.5)], "heldout": [(2.0, 2.75)]}
    assert panel("target", curves, 40).count("<polyline") == 2


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


def test_plan() -> None:
    plan = Plan(parse_phases("10x512x2s,20x1024x4"), parse_knots("0:0.5,10:1,30:0"))
    assert plan.steps == 30
    assert plan.phase(9).sampled
    assert plan.phase(10).layers == 4
    assert [plan.scale(s) for s in (0, 5, 10, 20, 40)] == [0.5, 0.75, 1.0, 0.5, 0.0]
    with pytest.raises(TrainingError, match="10x512"):
        parse_phases("10x512")
    with pytest.raises(TrainingError, match="do not rise"):
        parse_knots("5:1,5:2")
