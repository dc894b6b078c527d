"""NativeLayer against the plain torch layer, and its invariance to the shape of the pass."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.kernels import native
from engine.kernels.cpu import (
    LayerShape,
    LayerWeights,
    NativeCache,
    NativeLayer,
    PackedLinear,
    Step,
    available,
    use_threads,
)
from tests.engine.kernel_layers import Cache, copy_of, empty_cache, make_pass, plain_layer, random_layer, run

pytestmark = pytest.mark.skipif(not available(), reason="no C++ compiler or CPU without AVX2")

# int8 activations have an error of about 0.7% of the rms per product (largest of 32..128 values over 127 steps, uniform
# rounding); a layer chains four of them.
TOLERANCE = 0.02

SHAPES = (
    LayerShape(128, 4, 2, 32, 256, 1e-5),
    LayerShape(256, 14, 2, 64, 384, 1e-6),  # groups of seven queries
    LayerShape(256, 3, 3, 128, 512, 1e-5),  # no grouping, heads that two threads cannot share evenly
    LayerShape(1024, 16, 8, 64, 2048, 1e-5),  # large enough for two threads with few rows
    LayerShape(256, 4, 1, 80, 256, 1e-5),  # a head size that is no power of two
)


def native_layers(shape: LayerShape, group: int, count: int = 1, bias: bool = False) -> list[NativeLayer]:
    return [NativeLayer(shape, random_layer(shape, group, seed + 1, bias, head_norms=bias)) for seed in range(count)]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.fixture(params=[1, 2, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    use_threads(request.param)
    yield
    use_threads(None)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.hidden_size}x{s.num_attention_heads}x{s.head_dim}")
def test_agrees_with_plain_torch(shape: LayerShape, bias: bool) -> None:
    group = 64 if shape.num_attention_heads * shape.head_dim % 64 == 0 else 32
    weights = random_layer(shape, group, 1, bias, head_norms=bias)
    ours, theirs = empty_cache(shape, 64), Cache.empty(shape, 64)
    layer = NativeLayer(shape, weights)
    past = 0
    for parents in ([-1, *range(20)], [-1, 0, 0, 1, 1, 2, -1, 6, 7]):
        hidden = torch.randn(len(parents), shape.hidden_size)
        step = make_pass(shape, past, 0, parents)
        expected = plain_layer(shape, weights, hidden, step, theirs)
        actual = run([layer], hidden, step, [ours])
        assert relative_error(actual - hidden, expected - hidden) < TOLERANCE
        end = past + len(parents)
        keys, values = ours.read(end)
        assert relative_error(keys[:, past:], theirs.keys[:, past:end]) < TOLERANCE
        assert relative_error(values[:, past:], theirs.values[:, past:end]) < TOLERANCE
        past = end
    untouched = empty_cache(shape, 64)
    assert torch.equal(ours.read(64)[:, :, past:], untouched.read(64)[:, :, past:]), (
        "later slots must stay as they were"
    )


def random_parents(rows: int, rng: random.Random) -> list[int]:
    chain = rng.randrange(rows)
    return [i - 1 if i < chain else rng.randrange(-1, i) for i in range(rows)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", SHAPES[:4], ids=lambda s: f"{s.hidden_size}x{s.num_attention_heads}x{s.head_dim}")
def test_each_path_of_a_tree_is_bit_identical_to_plain_decoding(shape: LayerShape, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    layers = native_layers(shape, 64, count=2, bias=seed % 2 == 1)
    prompt, past = torch.randn(rng.randrange(1, 40), shape.hidden_size), 0
    caches = [empty_cache(shape, 128) for _ in layers]
    chain = make_pass(shape, 0, 0, list(range(-1, len(prompt) - 1)))
    run(layers, prompt, chain, caches)
    past = len(prompt)
    parents = random_parents(rng.randrange(2, 30), rng)
    rows = torch.randn(len(parents), shape.hidden_size)
    tree = run(layers, rows, make_pass(shape, past, 0, parents), [copy_of(cache) for cache in caches])
    for leaf in set(range(len(parents))) - set(parents):
        path = [leaf]
        while parents[path[0]] >= 0:
            path.insert(0, parents[path[0]])
        plain = [copy_of(cache) for cache in caches]
        for depth, node in enumerate(path):
            alone = run(layers, rows[node : node + 1], make_pass(shape, past + depth, 0, [-1]), plain)
            assert torch.equal(alone[0], tree[node])


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3]], ids=["small", "large"])
def test_a_tree_in_several_passes_is_bit_identical_to_one_pass(shape: LayerShape) -> None:
    layers = native_layers(shape, 64)
    parents = [-1, 0, 1, 1, 3, 0, -1, 6, 4]
    rows = torch.randn(len(parents), shape.hidden_size)
    whole = run(layers, rows, make_pass(shape, 0, 0, parents), [empty_cache(shape, 16)])
    caches = [empty_cache(shape, 16)]
    for first, end in ((0, 4), (4, 5), (5, 9)):
        part = run(layers, rows[first:end], make_pass(shape, 0, first, parents[:end]), caches)
        assert torch.equal(part, whole[first:end])


@pytest.mark.usefixtures("_threads")
def test_prefill_in_one_pass_is_bit_identical_to_token_by_token() -> None:
    shape = SHAPES[0]
    layers = native_layers(shape, 32, count=2)
    rows = torch.randn(150, shape.hidden_size)
    once = run(layers, rows, make_pass(shape, 0, 0, list(range(-1, 149))), [empty_cache(shape, 150) for _ in layers])
    caches = [empty_cache(shape, 150) for _ in layers]
    for i in range(150):
        assert torch.equal(run(layers, rows[i : i + 1], make_pass(shape, i, 0, [-1]), caches)[0], once[i])


def test_slots_move_with_their_keys_and_values() -> None:
    shape = SHAPES[4]
    cache = NativeCache(shape.num_key_value_heads, shape.head_dim, 40)
    cache._data.copy_(torch.randn(cache._data.shape))
    before = cache.read(48)
    cache.move(torch.tensor([5, 6, 20, 39], dtype=torch.int32), 3)
    expected = before.clone()
    expected[:, :, 3:7] = before[:, :, [5, 6, 20, 39]]
    assert torch.equal(cache.read(48), expected)


def test_errors_name_the_cause() -> None:
    shape = SHAPES[0]
    weights = random_layer(shape, 32, 1)
    layer = NativeLayer(shape, weights)
    cache = empty_cache(shape, 4)
    with pytest.raises(ValueError, match="cache of 16 slots for 17 rows"):
        layer(torch.randn(17, 128), make_pass(shape, 0, 0, range(-1, 16)).native, cache)
    with pytest.raises(ValueError, match="hidden must be"):
        layer(torch.randn(2, 64), make_pass(shape, 0, 0, [-1, 0]).native, cache)
    rope = torch.zeros(2, 8, 16)
    with pytest.raises(ValueError, match="1 positions for 2 rows"):
        Step(0, 0, [-1, 0], [0], rope)
    with pytest.raises(ValueError, match="positions 7 to 8: there are 8"):
        Step(7, 0, [-1, 0], [7, 8], rope)
    with pytest.raises(ValueError, match="rope must be"):
        Step(7, 0, [-1], [7], rope.half())
    wrong = LayerShape(128, 4, 4, 32, 256, 1e-5)
    assert not NativeLayer.fits(wrong, weights)
    dense = PackedLinear.from_dense(torch.randn(128, 128))
    mixed = LayerWeights(
        weights.qkv, dense, weights.gate_up, weights.down, weights.input_norm, weights.post_attention_norm
    )
    assert NativeLayer.fits(shape, mixed), "8- and 4-bit parts may be mixed"


def test_only_one_openmp_runtime_is_loaded() -> None:
    native.required()
    maps = Path("/proc/self/maps").read_text().splitlines()
    runtimes = {line.split()[-1] for line in maps if "libgomp" in line or "libiomp" in line or "libomp" in line}
    assert len(runtimes) == 1
