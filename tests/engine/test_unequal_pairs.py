"""A drafter whose vocabulary is padded otherwise, whose context is shorter, or that was stopped while it read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pairs import CONTEXT, PairPaths
from transformers import LlamaForCausalLM

from engine.config import EngineConfig
from engine.decoding import Decoding, Speculation
from engine.engine import Engine
from engine.errors import Cancelled, TreelineError
from engine.model.loader import LoadOptions, load_transformer
from engine.model.transformer import Transformer, never
from engine.request import MAX_BUDGET, CompletionRequest, SamplingParams
from engine.roles import PREFILL_ROWS, Draft, Target
from engine.speculation.drafter import ModelDrafter
from engine.speculation.frontier import AnyCost
from engine.speculation.ngram import NgramDrafter
from engine.speculation.static import best_shape
from engine.tokenizer import Tokenizer

WARM = SamplingParams(temperature=1.0, seed=4)
FULL = [1 + i % 400 for i in range(CONTEXT - 24)]  # leaves room for 24 tokens


def padded(source: Path, folder: Path, rows: int) -> Transformer:
    """The model of `source` with `rows` more tokens, which mean nothing."""
    model = LlamaForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(model.config.vocab_size + rows, mean_resizing=False)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return load_transformer(folder, LoadOptions())


def short(model: Transformer, context: int) -> Transformer:
    """The same model for `context` tokens."""
    return replace(model, rope=model.rope[:, :context])


def decode(
    pair_paths: PairPaths, target: Transformer, drafter: Transformer, prompt: list[int], *, sequoia: bool
) -> list[int]:
    draft = ModelDrafter(Draft(drafter, target.config.vocab_size))
    speculation = Speculation(draft, NgramDrafter(), AnyCost(), 16, best_shape(16, 8) if sequoia else None)
    decoding = Decoding(Target(target), Tokenizer.load(pair_paths.target), prompt, WARM, speculation)
    decoding.confidence(never)
    output: list[int] = []
    while len(output) < 24:
        output += decoding.step(24 - len(output), never)
    return output[:24]


@pytest.mark.parametrize("sequoia", [False, True], ids=["keyed", "sequoia"])
@pytest.mark.parametrize("larger", ["target", "drafter"])
def test_vocabularies_may_be_padded_differently(
    pair_paths: PairPaths, tmp_path: Path, larger: str, *, sequoia: bool
) -> None:
    models = {name: load_transformer(getattr(pair_paths, name), LoadOptions()) for name in ("target", "drafter")}
    models[larger] = padded(getattr(pair_paths, larger), tmp_path, 128)
    output = decode(pair_paths, models["target"], models["drafter"], [5, 6, 7], sequoia=sequoia)
    assert max(output) < models["target"].config.vocab_size
    if not sequoia:
        assert output == decode(pair_paths, models["target"], models["target"], [5, 6, 7], sequoia=False)


def test_a_padding_token_of_the_target_does_not_stop_the_drafter(pair_paths: PairPaths, tmp_path: Path) -> None:
    drafter = load_transformer(pair_paths.drafter, LoadOptions())
    target = padded(pair_paths.target, tmp_path, 128)
    prompt = [5, drafter.config.vocab_size + 100, 7]
    said = decode(pair_paths, target, drafter, prompt, sequoia=False)
    assert said == decode(pair_paths, target, target, prompt, sequoia=False)


@pytest.mark.parametrize("sequoia", [False, True], ids=["keyed", "sequoia"])
@pytest.mark.parametrize("context", [CONTEXT, 128])
def test_no_tree_goes_beyond_the_context_of_either_model(pair_paths: PairPaths, context: int, *, sequoia: bool) -> None:
    target = load_transformer(pair_paths.target, LoadOptions())
    drafter = short(load_transformer(pair_paths.drafter, LoadOptions()), context)
    assert len(decode(pair_paths, target, drafter, FULL, sequoia=sequoia)) == 24


def test_the_largest_budget_works_at_the_end_of_the_context(pair_paths: PairPaths) -> None:
    engine = Engine.load(EngineConfig(model=str(pair_paths.target), drafter=str(pair_paths.drafter), daemon=False))
    request = CompletionRequest("def area(width):\n" * 200, max_tokens=24, budget=MAX_BUDGET)
    plain = replace(request, speculation=False, budget=None)
    said = [["".join(chunk.text for chunk in engine.complete(each))] for each in (request, plain)]
    assert said[0] == said[1]
    with pytest.raises(TreelineError, match=f"budget is {MAX_BUDGET + 1}: it must be from 1 to {MAX_BUDGET}"):
        replace(request, budget=MAX_BUDGET + 1)


def test_what_a_cancelled_drafter_has_read_stays(pair_paths: PairPaths) -> None:
    drafter = load_transformer(pair_paths.drafter, LoadOptions())
    drafter.rope = drafter.rope.repeat(1, 4, 1) if drafter.rope.dim() == 3 else drafter.rope
    draft = Draft(drafter, drafter.config.vocab_size)
    model = ModelDrafter(draft)
    tokens = [1 + i % 400 for i in range(2 * PREFILL_ROWS + 9)]
    asked = 0

    def third_pass() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2 * len(drafter.layers)

    model.reset(tokens)
    with pytest.raises(Cancelled):
        model.confidence(tokens, third_pass)
    model.abandon()
    assert model.reset(tokens) == draft.cache.length == 2 * PREFILL_ROWS
    after = model.confidence(tokens, never)
    assert after == pytest.approx(ModelDrafter(Draft(drafter, drafter.config.vocab_size)).confidence(tokens, never))


def test_logits_that_are_no_numbers_are_an_error(pair_paths: PairPaths) -> None:
    target = load_transformer(pair_paths.target, LoadOptions())
    target.norm = torch.full_like(target.norm, float("nan"))
    decoding = Decoding(Target(target), Tokenizer.load(pair_paths.target), [5, 6], SamplingParams(), None)
    with pytest.raises(TreelineError, match="no finite numbers"):
        decoding.step(4, never)
