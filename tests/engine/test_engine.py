"""The engine from a request to its last chunk, with a small pair that transformers wrote."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pairs import PairPaths
from small_tokenizers import write_tokenizer
from transformers import LlamaForCausalLM

from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.request import CompletionChunk, CompletionRequest, SamplingParams, StopRules

SOURCE = "def area(width, height):\n    return width * height\n\n\ndef perimeter(width, height):\n    return "
ENDLESS = StopRules(ignore_end_tokens=True)


@pytest.fixture(scope="module", params=["target", "awq"])
def engine(request: pytest.FixtureRequest, pair_paths: PairPaths) -> Engine:
    """The float32 target and its int4 copy, each with the drafter."""
    return load(getattr(pair_paths, request.param), pair_paths.drafter)


def load(target: Path, drafter: Path) -> Engine:
    return Engine.load(EngineConfig(model=str(target), drafter=str(drafter)))


def ask(prefix: str = SOURCE, **fields: object) -> CompletionRequest:
    request = CompletionRequest(prefix=prefix, suffix="\n", path="shapes.py", max_tokens=24, stop=ENDLESS)
    return replace(request, **fields)


def ids(chunks: list[CompletionChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.tokens]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_speculation_is_invisible_but_for_the_passes(engine: Engine, temperature: float) -> None:
    sampling = SamplingParams(temperature=temperature, seed=7)
    fast = list(engine.complete(ask(sampling=sampling, budget=8)))
    slow = list(engine.complete(ask(sampling=sampling, speculation=False)))
    assert ids(fast) == ids(slow)
    assert "".join(chunk.text for chunk in fast) == "".join(chunk.text for chunk in slow)
    assert slow[-1].stats
    assert fast[-1].stats
    assert slow[-1].stats.target_passes == slow[-1].stats.new_tokens == 24
    assert fast[-1].stats.drafted_tokens > 0


def test_only_the_last_chunk_ends_the_completion(engine: Engine) -> None:
    chunks = list(engine.complete(ask()))
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == "length"
    stats = chunks[-1].stats
    assert stats is not None
    assert stats.new_tokens == len(ids(chunks)) == 24
    assert 0 < stats.prefill_ms <= stats.first_token_ms <= stats.total_ms


def test_the_prompt_is_read_when_the_first_tokens_are_chosen(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = engine._lane  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(lane.target, "prefill_rows", 100)
    engine.forget()
    began = time.perf_counter()
    chunks, times = [], []
    for chunk in engine.complete(ask(SOURCE * 60)):
        chunks.append(chunk)
        times.append(1000 * (time.perf_counter() - began))
    reading = sum(not chunk.tokens for chunk in chunks[:-1])
    assert reading >= 3
    stats = chunks[-1].stats
    assert stats is not None
    assert times[reading - 1] <= stats.prefill_ms <= times[reading]


def test_typing_computes_only_what_is_new(engine: Engine) -> None:
    """A keystroke shares all of the prompt but the last tokens of the prefix and the mark after it."""
    engine.reset()
    list(engine.complete(ask()))
    for typed in ("w", "wi", "wid", "width"):
        last = list(engine.complete(ask(SOURCE + typed)))[-1].stats
        assert last is not None
        assert last.prompt_tokens - last.cached_tokens <= len(typed) + 3


def test_requests_do_not_leak_into_each_other(engine: Engine) -> None:
    engine.reset()
    fresh = ids(list(engine.complete(ask())))
    strange = SamplingParams(temperature=2.0, top_k=3, top_p=0.5, repetition_penalty=1.9, seed=99)
    list(engine.complete(ask("import os\n", sampling=strange, budget=3, stop=StopRules(strings=("e",)))))
    assert ids(list(engine.complete(ask()))) == fresh


def test_an_abandoned_stream_leaves_the_engine_ready(engine: Engine) -> None:
    engine.reset()
    fresh = ids(list(engine.complete(ask())))
    engine.reset()
    for _ in itertools.islice(engine.complete(ask()), 1):
        pass
    assert ids(list(engine.complete(ask()))) == fresh


@pytest.mark.parametrize("after", [0, 1, 2, 5, 11])
def test_a_cancelled_completion_keeps_what_is_verified(engine: Engine, after: int) -> None:
    engine.reset()
    whole = ids(list(engine.complete(ask())))
    engine.reset()
    asked = itertools.count()
    chunks = list(engine.complete(ask(), lambda: next(asked) > after))
    assert chunks[-1].finish_reason == "cancelled"
    assert ids(chunks) == whole[: len(ids(chunks))]
    assert ids(list(engine.complete(ask()))) == whole


def test_at_the_deadline_the_verified_text_is_returned(engine: Engine) -> None:
    chunks = list(engine.complete(ask(deadline_ms=0.001)))
    assert chunks[-1].finish_reason == "deadline"
    assert ids(chunks) == []


def test_a_seed_decides_the_first_token_too(engine: Engine) -> None:
    firsts = {ids(list(engine.complete(ask(max_tokens=1, sampling=SamplingParams(1.5, seed=s)))))[0] for s in range(12)}
    assert len(firsts) > 3


def test_a_prompt_longer_than_the_context_is_cut(engine: Engine) -> None:
    stats = list(engine.complete(ask(SOURCE * 60)))[-1].stats
    assert stats is not None
    assert stats.new_tokens == 24
    assert stats.prompt_tokens + 24 <= 512


@pytest.mark.parametrize("prefix", ["", "\n", "é", "\x00\ud7ff", "\ud800", "a\udc00\ud83d", "<|endoftext|>"])
def test_any_prefix_completes(engine: Engine, prefix: str) -> None:
    assert list(engine.complete(ask(prefix, max_tokens=2)))[-1].finish_reason == "length"


def test_without_a_drafter_ngrams_draft(pair_paths: PairPaths) -> None:
    engine = Engine.load(EngineConfig(model=str(pair_paths.target), drafter="none"))
    fast, slow = (ids(list(engine.complete(ask(speculation=flag)))) for flag in (True, False))
    assert fast == slow


def test_a_drafter_with_another_vocabulary_is_refused(pair_paths: PairPaths, tmp_path: Path) -> None:
    other = write_tokenizer("llama3", tmp_path / "other")
    with pytest.raises(TreelineError, match=r"vocabulary of \d+ tokens that is not the target's of \d+"):
        load(pair_paths.target, other)


def test_a_memory_limit_is_checked_before_anything_is_loaded(pair_paths: PairPaths) -> None:
    config = EngineConfig(model=str(pair_paths.target), drafter="none", memory=1024)
    with pytest.raises(TreelineError, match="need more than the 0 MiB that memory allows, and cannot be streamed"):
        Engine.load(config)
    Engine.load(replace(config, memory=2**34))


def test_loading_tells_how_far_it_is(pair_paths: PairPaths) -> None:
    seen: list[tuple[str, int, int]] = []
    config = EngineConfig(model=str(pair_paths.target), drafter=str(pair_paths.drafter))
    Engine.load(config, lambda phase, done, total: seen.append((phase, done, total)))
    assert seen == [("target", 1, 3), ("target", 2, 3), ("target", 3, 3), ("drafter", 1, 1)]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_an_interrupted_completion_says_the_same(engine: Engine, temperature: float) -> None:
    """Another request between any two chunks, in the same caches: neither of them notices."""
    sampling = SamplingParams(temperature=temperature, seed=3)
    first, second = ask(sampling=sampling), ask("import os\n\nfor name in os.", sampling=sampling)
    alone = [ids(list(engine.complete(request))) for request in (first, second)]
    running = engine.complete(first)
    tokens: list[int] = []
    for chunk in running:
        tokens += chunk.tokens
        assert ids(list(engine.complete(second))) == alone[1]
    assert tokens == alone[0]


def test_two_completions_may_take_turns(engine: Engine) -> None:
    requests = [ask(speculation=False), ask("class A:\n    x = ", budget=4)]
    alone = [ids(list(engine.complete(request))) for request in requests]
    turns = itertools.zip_longest(*(engine.complete(request) for request in requests))
    both = list(turns)
    assert [ids([pair[side] for pair in both if pair[side]]) for side in (0, 1)] == alone


def test_logprobs_are_the_targets(pair_paths: PairPaths) -> None:
    """Against transformers on the same tokens; the alternatives are its best ones."""
    engine = load(pair_paths.target, pair_paths.drafter)
    request = ask(logprobs=3, sampling=SamplingParams(temperature=0.9, top_k=5, seed=2))
    chunks = list(engine.complete(request))
    found = [each for chunk in chunks for each in chunk.logprobs]
    assert [each.token for each in found] == ids(chunks)
    prompt = engine.prompt(request).ids
    model = LlamaForCausalLM.from_pretrained(pair_paths.target, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids(chunks)]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)
    for row, each in zip(expected, found, strict=True):
        assert each.logprob == pytest.approx(float(row[each.token]), abs=1e-3)
        assert [rival.token for rival in each.alternatives] == row.topk(3).indices.tolist()
        assert each.spelling == engine.tokenizer.token_bytes(each.token)


def test_logprobs_are_left_out_unless_asked_for(engine: Engine) -> None:
    assert not any(chunk.logprobs for chunk in engine.complete(ask()))
    assert all(not each.alternatives for chunk in engine.complete(ask(logprobs=0)) for each in chunk.logprobs)


def test_branches_are_reported_when_asked_for_and_change_nothing(engine: Engine) -> None:
    engine.reset()
    plain = list(engine.complete(ask(budget=12)))
    assert not any(chunk.branches for chunk in plain)
    engine.reset()
    chunks = list(engine.complete(ask(budget=12, branches=True)))
    assert ids(chunks) == ids(plain)
    text = "".join(chunk.text for chunk in chunks)
    branches = [branch for chunk in chunks for branch in chunk.branches]
    assert branches
    for branch in branches:
        assert 0 <= branch.offset <= len(text)
        assert branch.text
        assert not text[branch.offset :].startswith(branch.text)


def test_a_drafter_without_confidence_declines(engine: Engine) -> None:
    engine.reset()
    plain = list(engine.complete(ask()))
    engine.reset()
    declined = list(engine.complete(ask(min_confidence=1.0)))
    assert [chunk.finish_reason for chunk in declined] == ["declined"]
    assert declined[-1].stats is not None
    assert declined[-1].stats.target_passes == 0
    assert ids(list(engine.complete(ask(min_confidence=1e-9)))) == ids(plain)
