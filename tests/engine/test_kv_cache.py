"""The KV cache against lists: whatever is appended, committed, discarded and truncated, in whatever order."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.errors import TreelineError
from engine.kernels import cpu
from engine.model.config import ModelConfig, Rope
from engine.model.kv_cache import KVCache, LayerCache, PlainCache

CONFIG = ModelConfig(
    model_type="llama",
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=4,
    vocab_size=8,
    max_position_embeddings=64,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    qkv_bias=False,
    output_bias=False,
    mlp_bias=False,
    rope=Rope(10000.0),
    dtype=torch.float32,
    awq=None,
)


def plain_layer(config: ModelConfig, capacity: int) -> PlainCache:
    return PlainCache.empty(config, capacity, torch.float32, torch.device("cpu"))


def new_cache(capacity: int) -> KVCache:
    return KVCache([plain_layer(CONFIG, capacity) for _ in range(CONFIG.num_hidden_layers)], capacity)


def data_of(cache: KVCache, layer: int) -> torch.Tensor:
    plain = cache.layers[layer]
    assert isinstance(plain, PlainCache)
    return plain.data


def path_to(row: int, parents: list[int]) -> list[int]:
    return [] if row < 0 else [*path_to(parents[row], parents), row]


class Lists(RuleBasedStateMachine):
    """A cache beside two lists. Each row writes a number of its own, found later where its keys belong."""

    @initialize(capacity=st.integers(1, 24))
    def start(self, capacity: int) -> None:
        self.cache = new_cache(capacity)
        self.committed: list[float] = []
        self.rows: list[float] = []
        self.parents: list[int] = []
        self.marks = 0

    @rule(data=st.data(), count=st.integers(0, 8))
    def append(self, data: st.DataObject, count: int) -> None:
        first = len(self.rows)
        parents = [data.draw(st.integers(-1, row - 1)) for row in range(first, first + count)]
        if len(self.committed) + first + count > self.cache.capacity:
            with pytest.raises(TreelineError, match=f"{self.cache.capacity} positions"):
                self.cache.append(parents)
            return
        assert self.cache.append(parents) == first
        self.parents += parents
        for row in range(first, first + count):
            self.marks += 1
            self.rows.append(float(self.marks))
            for layer in range(CONFIG.num_hidden_layers):
                data_of(self.cache, layer)[:, :, len(self.committed) + row] = self.marks + layer / 10

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        path = path_to(data.draw(st.integers(-1, len(self.rows) - 1)), self.parents)
        self.cache.commit(path)
        self.committed += [self.rows[row] for row in path]
        self.forget()

    @precondition(lambda self: len(self.rows) > 0)
    @rule(data=st.data())
    def commit_what_is_no_path(self, data: st.DataObject) -> None:
        rows = data.draw(st.lists(st.integers(-2, len(self.rows) + 1), min_size=1, max_size=4))
        if any(rows == path_to(row, self.parents) for row in range(len(self.rows))):
            return
        with pytest.raises(ValueError, match="does not continue"):
            self.cache.commit(rows)

    @rule(later=st.integers(0, 3))
    def append_to_a_row_that_is_not_there(self, later: int) -> None:
        if len(self.committed) + len(self.rows) + 2 <= self.cache.capacity:
            with pytest.raises(ValueError, match="earlier row"):
                self.cache.append([-1, len(self.rows) + 1 + later])

    @rule()
    def discard(self) -> None:
        self.cache.discard()
        self.forget()

    @rule(length=st.integers(0, 30))
    def truncate(self, length: int) -> None:
        self.cache.truncate(length)
        del self.committed[length:]
        self.forget()

    def forget(self) -> None:
        self.rows.clear()
        self.parents.clear()

    @invariant()
    def holds_what_the_lists_hold(self) -> None:
        assert self.cache.length == len(self.committed)
        assert list(self.cache.parents) == self.parents
        assert list(self.cache.depths) == [len(path_to(row, self.parents)) - 1 for row in range(len(self.rows))]
        marks = torch.tensor(self.committed + self.rows)
        for layer in range(CONFIG.num_hidden_layers):
            held = data_of(self.cache, layer)[:, :, : len(marks)]
            assert torch.equal(held, (marks + layer / 10)[None, None, :, None].expand(held.shape))

    @invariant()
    def shows_each_row_its_ancestors(self) -> None:
        for first in (0, len(self.rows) // 2):
            seen = self.cache.ancestors(first)
            assert seen.shape == (len(self.rows) - first, len(self.rows))
            for row in range(first, len(self.rows)):
                assert seen[row - first].nonzero().flatten().tolist() == path_to(row, self.parents)


TestLists = Lists.TestCase
TestLists.settings = settings(max_examples=40, stateful_step_count=15)


@given(count=st.integers(0, 12), past=st.integers(0, 3))
def test_a_chain_stays_in_place(count: int, past: int) -> None:
    """Committing a prompt or an accepted chain copies nothing: what is there already is not even read."""
    cache = new_cache(16)
    cache.append(range(-1, past - 1))
    cache.commit(range(past))
    data = data_of(cache, 0)
    data[:] = torch.nan  # a copy would be seen by its version counter
    before = data._version
    cache.append(range(-1, count - 1))
    cache.commit(range(count))
    assert data._version == before
    assert cache.length == past + count


class Noting:
    """A layer that notes what is to be moved."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.moved: list[torch.Tensor] = []

    def move(self, sources: torch.Tensor, target: int) -> None:
        assert target == 1
        self.moved.append(sources)


def test_what_is_moved_is_sent_to_the_layers_device_once() -> None:
    layers = [Noting() for _ in range(3)]
    cache = KVCache(layers, 16)
    cache.append([-1, 0, 0, 2])
    cache.commit([0, 2, 3])
    (first,), *others = [layer.moved for layer in layers]
    assert first.tolist() == [2, 3]
    assert all(moved[0] is first for moved in others)


def test_memory_is_reserved_not_touched() -> None:
    """A cache for a whole context costs what is used of it: the resident set hardly grows."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc: the resident set cannot be read")
    big = dataclasses.replace(CONFIG, num_key_value_heads=64, head_dim=128)
    before = int(statm.read_text().split()[1])
    layers: list[LayerCache] = [plain_layer(big, 16384)]
    if cpu.available():
        layers.append(cpu.NativeCache(big.num_key_value_heads, big.head_dim, 16384))
    grown = (int(statm.read_text().split()[1]) - before) * os.sysconf("SC_PAGE_SIZE")
    assert grown < 2 * 64 * 16384 * 128 * 4 // 100  # of 1 GiB, and half a one
