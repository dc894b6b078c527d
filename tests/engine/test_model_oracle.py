"""Our decoder against transformers, on random checkpoints of every family that transformers wrote."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.errors import Cancelled, TreelineError
from engine.model.kv_cache import KVCache, PlainCache
from engine.model.loader import LoadOptions, load_transformer
from engine.model.transformer import Transformer
from tests.engine import checkpoints
from tests.engine.checkpoints import VARIANTS, VOCABULARY, Made, assert_close, chain, run

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-4
FLOAT32 = LoadOptions(dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class Pair:
    """The same checkpoint as transformers and as Treeline read it."""

    made: Made
    model: Transformer = field(repr=False)


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, checkpoint: Callable[[str], Made]) -> Pair:
    made = checkpoint(request.param)
    return Pair(made, load_transformer(made.directory, FLOAT32))


def random_tokens(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=count)


@st.composite
def trees(draw: st.DrawFn, nodes: int = 12) -> tuple[list[int], list[int]]:
    """Tokens and parents. Few distinct tokens, so that siblings and cousins are often equal."""
    count = draw(st.integers(1, nodes))
    tokens = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    return tokens, [draw(st.integers(-1, row - 1)) for row in range(count)]


def path_to(row: int, parents: Sequence[int]) -> list[int]:
    """Rows from the root to `row`."""
    path: list[int] = []
    while row >= 0:
        path.append(row)
        row = parents[row]
    return path[::-1]


def leaves(parents: Sequence[int]) -> list[int]:
    return [row for row in range(len(parents)) if row not in parents]


def test_a_prompt(pair: Pair) -> None:
    """Past the length at which llama3's scaling sets in; up to the last position of a sliding window."""
    tokens = random_tokens(min(128, pair.model.config.max_position_embeddings))
    cache = pair.model.new_cache(len(tokens))
    assert_close(run(pair.model, tokens, cache), pair.made.logits(tokens), TOLERANCE)


def test_only_the_rows_asked_for_are_projected(pair: Pair) -> None:
    tokens = random_tokens(20)
    cache = pair.model.new_cache(20)
    last = pair.model.forward(tokens, chain(20), cache, slice(-1, None))
    assert_close(last, pair.made.logits(tokens)[-1:], TOLERANCE)
    cache.discard()
    assert pair.model.forward(tokens, chain(20), cache, slice(0, 0)).shape == (0, VOCABULARY)


def test_decoding_step_by_step(pair: Pair) -> None:
    tokens = random_tokens(40, seed=1)
    cache = pair.model.new_cache(40)
    parts = [run(pair.model, tokens[:16], cache)]
    parts += [run(pair.model, [token], cache) for token in tokens[16:]]
    assert_close(torch.cat(parts), pair.made.logits(tokens), TOLERANCE)


@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, 29)), seed=st.integers(0, 1000))
def test_a_prompt_in_parts(pair: Pair, cuts: set[int], seed: int) -> None:
    """The parts stay uncommitted: rows of one pass continue rows of the passes before."""
    tokens = random_tokens(30, seed)
    cache = pair.model.new_cache(30)
    edges = [0, *sorted(cuts), 30]
    parts: list[Tensor] = []
    for begin, end in itertools.pairwise(edges):
        parts.append(pair.model.forward(tokens[begin:end], chain(end - begin, begin), cache, slice(None)))
    assert_close(torch.cat(parts), pair.made.logits(tokens), TOLERANCE)


@settings(max_examples=12)
@given(tree=trees(), past=st.integers(0, 12), cut=st.integers(0, 12))
def test_every_path_of_a_tree(pair: Pair, tree: tuple[list[int], list[int]], past: int, cut: int) -> None:
    """Each path from the root to a leaf, fed alone to transformers; the tree in one pass or cut into two."""
    tokens, parents = tree
    prompt = random_tokens(past, seed=past)
    cache = pair.model.new_cache(past + len(tokens))
    if prompt:
        run(pair.model, prompt, cache)
    halves = [half for half in (slice(cut), slice(cut, None)) if tokens[half]]
    logits = torch.cat([pair.model.forward(tokens[half], parents[half], cache, slice(None)) for half in halves])
    for leaf in leaves(parents):
        path = path_to(leaf, parents)
        expected = pair.made.logits(prompt + [tokens[row] for row in path])[past:]
        assert_close(logits[path], expected, TOLERANCE)


@settings(max_examples=12)
@given(tree=trees(), past=st.integers(0, 12), data=st.data())
def test_decoding_goes_on_behind_a_committed_path(
    pair: Pair, tree: tuple[list[int], list[int]], past: int, data: st.DataObject
) -> None:
    tokens, parents = tree
    text = random_tokens(past, seed=past)
    cache = pair.model.new_cache(past + len(tokens) + 6)
    if text:
        pair.model.forward(text, chain(past), cache, slice(0, 0))
    hung = [past - 1 if parent < 0 else past + parent for parent in parents]  # on the prompt's last row
    pair.model.forward(tokens, hung, cache, slice(0, 0))
    path = path_to(data.draw(st.integers(0, len(tokens) - 1)), parents)
    cache.commit([*range(past), *(past + row for row in path)])
    text += [tokens[row] for row in path]
    assert cache.length == len(text)
    more = random_tokens(3, seed=1)
    parts = [run(pair.model, more[:2], cache), run(pair.model, more[2:], cache)]
    assert_close(torch.cat(parts), pair.made.logits(text + more)[len(text) :], TOLERANCE)
    cache.truncate(len(text) - 1)  # back over the kept path, and on with something else
    again = run(pair.model, more, cache)
    assert_close(again, pair.made.logits(text[:-1] + more)[len(text) - 1 :], TOLERANCE)


def data_of(cache: KVCache) -> torch.Tensor:
    """A copy of all keys and values: [layers, keys|values, kv_heads, capacity, head_dim]."""
    return torch.stack([layer.data for layer in cache.layers if isinstance(layer, PlainCache)])


def test_cancelling_before_any_layer(pair: Pair) -> None:
    """Committed positions stay, uncommitted rows go, and the next pass is none the worse."""
    tokens = random_tokens(24, seed=2)
    expected = pair.made.logits(tokens)
    layers = pair.model.config.num_hidden_layers
    for survived in range(layers):
        cache = pair.model.new_cache(24)
        run(pair.model, tokens[:10], cache)
        kept = data_of(cache)[:, :, :, :10]
        asked = iter([False] * survived + [True])
        with pytest.raises(Cancelled):
            pair.model.forward(
                random_tokens(14, seed=3), chain(14), cache, slice(None), lambda asked=asked: next(asked)
            )
        assert (cache.length, list(cache.parents)) == (10, [])
        assert torch.equal(data_of(cache)[:, :, :, :10], kept)
        assert_close(run(pair.model, tokens[10:], cache), expected[10:], TOLERANCE)


def test_the_end_of_the_context_and_of_the_cache(pair: Pair) -> None:
    positions = pair.model.config.max_position_embeddings
    tokens = random_tokens(positions)
    cache = pair.model.new_cache(positions + 8)
    run(pair.model, tokens[:-1], cache)
    last = pair.model.forward([tokens[-1], 3], [-1, -1], cache, slice(None))  # two rows, both at the last position
    assert_close(last[:1], pair.made.logits(tokens)[-1:], TOLERANCE)
    with pytest.raises(TreelineError, match=f"context ends at {positions} tokens"):
        pair.model.forward([5], [0], cache, slice(None))
    small = pair.model.new_cache(4)
    with pytest.raises(TreelineError, match="cache holds 4 positions"):
        pair.model.forward([1] * 5, chain(5), small, slice(None))
    assert_close(run(pair.model, tokens[:4], small), pair.made.logits(tokens[:4]), TOLERANCE)


def test_a_shorter_context_can_be_asked_for(checkpoint: Callable[[str], Made]) -> None:
    model = load_transformer(checkpoint("llama").directory, LoadOptions(dtype=torch.float32, context=32))
    with pytest.raises(TreelineError, match="context ends at 32 tokens"):
        model.forward([1] * 33, chain(33), model.new_cache(64), slice(None))


@pytest.mark.parametrize("variant", ["llama3-rope-tied", "llama-biases", "qwen2", "mistral"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision(tmp_path_factory: pytest.TempPathFactory, variant: str, dtype: torch.dtype) -> None:
    """Both sides round each intermediate to `dtype`, but add in another order: some units in the last place part them.

    Measured on these checkpoints: up to 3 times the rounding error `eps`; 8 leaves room for other CPUs' matmuls, and
    is far below what a wrong tensor or a skipped cast does. The same file computed in float32 has no such excuse.
    """
    directory = tmp_path_factory.mktemp("half")
    made = checkpoints.make(directory, VARIANTS[variant](), dtype)
    tokens = random_tokens(48)
    model = load_transformer(directory, LoadOptions())
    assert model.dtype == dtype
    cache = model.new_cache(48)
    assert data_of(cache).dtype == dtype
    assert_close(run(model, tokens, cache), made.logits(tokens), 8 * torch.finfo(dtype).eps)
    exact = load_transformer(directory, FLOAT32)
    assert_close(run(exact, tokens, exact.new_cache(48)), checkpoints.read(directory).logits(tokens), TOLERANCE)


@pytest.mark.parametrize("variant", ["llama3-rope-tied", "qwen2"])
def test_a_sharded_checkpoint(tmp_path_factory: pytest.TempPathFactory, variant: str) -> None:
    directory = tmp_path_factory.mktemp("sharded")
    made = checkpoints.make(directory, VARIANTS[variant](), shard_size="100KB")
    assert len(list(directory.glob("*.safetensors"))) > 2
    tokens = random_tokens(30)
    model = load_transformer(directory, FLOAT32)
    assert_close(run(model, tokens, model.new_cache(30)), made.logits(tokens), TOLERANCE)
