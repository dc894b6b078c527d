"""Prompts stay within their budgets, and steady while the user types."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import TreelineError
from engine.excerpts import head, tail
from engine.layouts import LAYOUTS, choose_layout
from engine.prompt import build_prompt
from engine.request import CompletionRequest, ContextFile
from engine.tokenizer import Tokenizer
from tests.engine.prompts import SUFFIX, load, prompt_of, spelled
from tests.engine.small_tokenizers import FAMILIES, SOURCE, write_tokenizer

fields = st.fixed_dictionaries(
    {
        "prefix": st.integers(0, 60_000),
        "suffix": st.integers(0, 20_000),
        "files": st.lists(st.integers(0, 20_000), max_size=3),
        "window": st.integers(128, 6000),
        "max_tokens": st.integers(1, 400),
        "layout": st.sampled_from([(family, layout.name) for family in FAMILIES for layout in LAYOUTS]),
    }
)


@settings(max_examples=120, deadline=None)
@given(fields)
def test_the_window_is_never_exceeded(values: dict[str, object]) -> None:
    family, name = values["layout"]  # type: ignore[misc]
    tokenizer = load(family)
    try:
        layout = choose_layout(tokenizer, name)
    except TreelineError:
        layout = choose_layout(tokenizer)
    text = SOURCE * 2
    prefix, suffix = text[: values["prefix"]], text[values["prefix"] :][: values["suffix"]]  # type: ignore[misc]
    files = tuple(ContextFile(f"p/{n}.py", text[n : n + n]) for n in values["files"])  # type: ignore[attr-defined]
    request = CompletionRequest(prefix, suffix, "p/x.py", "python", files, max_tokens=values["max_tokens"])  # type: ignore[arg-type]
    window = values["window"]
    prompt = build_prompt(request, tokenizer, layout, window)  # type: ignore[arg-type]
    assert len(prompt.ids) + prompt.max_new <= window  # type: ignore[operator]
    assert prompt.max_new >= min(values["max_tokens"], window // 2)  # type: ignore[operator, type-var]
    kept = prefix[: len(prefix) - len(tokenizer.decode(prompt.dropped))]
    near = kept[-200 if window > 1000 else -8 :]  # type: ignore[operator]
    assert near in tokenizer.decode(prompt.ids)


def test_a_window_too_small_is_refused() -> None:
    with pytest.raises(TreelineError, match="context of 40 tokens"):
        prompt_of("qwen", window=40, max_tokens=20)


def test_the_prefix_gets_most_and_the_suffix_its_share() -> None:
    prompt = prompt_of("treeline", prefix=SOURCE, suffix=SOURCE, context=(ContextFile("a.py", SOURCE),), window=2048)
    text = spelled(load("treeline"), prompt.ids)
    files, rest = text.split("<|fim_prefix|><|fim_suffix|>")
    suffix, prefix = rest.split("<|fim_middle|>")
    tokenizer = load("treeline")
    sizes = [len(tokenizer.encode(part)) for part in (files, suffix, prefix)]
    assert sizes[0] < 450
    assert 400 < sizes[1] < 520
    assert sizes[2] > 700
    assert sum(sizes) > 0.8 * (2048 - 64)


@pytest.mark.parametrize("family", ["llama3", "treeline"])
def test_a_long_file_is_not_read_whole(family: str) -> None:
    with TemporaryDirectory() as directory:
        tokenizer = Tokenizer.load(write_tokenizer(family, Path(directory)))
    encoded: list[int] = []
    encode_all = tokenizer._segments._encode
    tokenizer._segments._encode = lambda text: encoded.append(len(text)) or encode_all(text)
    long = "".join(f"value_{i} = compute({i}, other={i * 7})\n" for i in range(60_000))
    build_prompt(CompletionRequest(long, long, "a.py"), tokenizer, choose_layout(tokenizer), 2048)
    assert sum(encoded) < 80_000
    line = "x" * 2_000_000
    encoded.clear()
    prompt = build_prompt(CompletionRequest(line, line, "a.py"), tokenizer, choose_layout(tokenizer), 2048)
    assert len(prompt.ids) > 100
    assert sum(encoded) < 2_000_000


# --- steadiness


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@pytest.mark.parametrize("family", ["treeline", "starcoder2", "llama3", "codestral", "mistral"])
@pytest.mark.parametrize("start", [2000, 40_000])
def test_typing_a_line_changes_only_the_end(family: str, start: int) -> None:
    at = SOURCE.index("\n", start) + 1
    line = "        return self._get_values(action, arg)"
    before = prompt_of(family, prefix=SOURCE[:at], suffix=SOURCE[at:])
    changed: list[int] = []
    for count in range(1, len(line) + 1):
        after = prompt_of(family, prefix=SOURCE[:at] + line[:count], suffix=SOURCE[at:])
        changed.append(len(before.ids) - common(before.ids, after.ids))
        before = after
    assert sorted(changed)[-2] <= 5  # once the cut may move
    assert sum(count > 0 for count in changed) < len(line)


@pytest.mark.parametrize("family", ["treeline", "llama3"])
def test_the_cut_moves_seldom(family: str) -> None:
    first = SOURCE.index("\n", 60_000) + 1
    ends = [first]
    while len(ends) < 129:
        ends.append(SOURCE.index("\n", ends[-1]) + 1)
    prompts = [prompt_of(family, prefix=SOURCE[:end], suffix=SUFFIX) for end in ends]
    moved = [b for a, b in pairwise(prompts) if common(a.ids, b.ids) < len(a.ids) // 2]
    assert 1 <= len(moved) <= 8  # 128 lines
    assert min(len(prompt.ids) for prompt in prompts) > 1000


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30_000), st.integers(0, 3000), st.integers(-5, 2500))
def test_excerpts_by_definition(start: int, length: int, budget: int) -> None:
    tokenizer = load("qwen")
    text = SOURCE[start : start + length]
    ids, whole = tail(text, budget, tokenizer.encode)
    kept = tokenizer.decode(ids)
    assert len(ids) <= max(budget, 0)
    assert text.endswith(kept)
    assert whole == (kept == text)
    if not whole and budget > 40:
        assert text[: len(text) - len(kept)].endswith("\n") or len(kept.splitlines()) < 2
    beginning = tokenizer.decode(head(text, budget, tokenizer.encode))
    assert len(tokenizer.encode(beginning)) <= max(budget, 0)
    assert text.startswith(beginning)
    if beginning != text and "\n" in beginning:
        assert beginning.endswith("\n")
