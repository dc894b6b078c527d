"""The GPU's layer, its attention over trees and its recorded passes, against the reference and the plain model."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from engine.errors import TreelineError
from engine.kernels import reference
from engine.kernels.cuda import GpuCache, GpuHead, GpuLayer, GpuWeights, Int4Linear, PassRows, Recordings, Stack, join
from engine.kernels.device import memory_explained
from engine.kernels.gpu import attention, graph
from engine.kernels.gpu.attention import tree_attention
from engine.kernels.gpu.layer import DenseLinear, normed
from engine.kernels.layer import LayerShape
from engine.kernels.logits import top_logprobs
from engine.kernels.triton.rows import silu_and_multiply
from engine.model import loader
from engine.model.loader import LoadOptions, load_transformer
from tests.engine.gpu import DEVICE, ROUNDING, TYPES, error, on_a_gpu, random_awq, random_parents
from tests.engine.kernel_layers import make_pass
from tests.engine.pairs import PairPaths

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("seed", range(20))
def test_a_row_sees_its_ancestors_and_itself_in_order(seed):
    parents = random_parents(12, seed)
    past, first = 5 * seed, seed % 7
    depths = reference.visible_slots(0, 0, len(parents), parents).sum(1) - 1
    positions = (past + depths[first:]).tolist()
    rows = PassRows.of(past, first, parents, positions)
    mask = reference.visible_slots(past, first, rows.count, parents)
    for row, position in enumerate(positions):
        slots = [*range(min(rows.straight, position + 1)), *rows.table[row][: position + 1 - rows.straight]]
        assert slots == mask[row].nonzero()[:, 0].tolist()


def attended(queries, cache, past, first, parents):
    positions = [past + depth for depth in depths_of(parents)[first:]]
    rows = PassRows.of(past, first, parents, positions)
    state = rows.on(DEVICE)
    return tree_attention(queries.to(DEVICE), state, cache)


def depths_of(parents):
    depths = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return depths


def filled_cache(kv_heads, head_dim, dtype, slots=700):
    cache = GpuCache(kv_heads, head_dim, slots, dtype, DEVICE)
    cache.data.copy_(torch.randn(cache.data.shape))
    return cache


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "past", "first"),
    [(2, 2, 64, 3, 0), (4, 1, 80, 40, 2), (7, 1, 64, 256, 0), (16, 2, 128, 530, 3), (20, 1, 32, 515, 0)],
)
def test_attention_over_a_prefix_and_a_tree(heads, kv_heads, head_dim, past, first, dtype):
    parents = random_parents(first + 4, heads + past)
    cache = filled_cache(kv_heads, head_dim, dtype)
    queries = torch.randn(4, heads, head_dim).to(dtype)
    mask = reference.visible_slots(past, first, 4, parents)
    keys, values = cache.data.cpu()[:, :, : past + first + 4]
    expected = reference.attention(queries, keys, values, mask)
    assert error(attended(queries, cache, past, first, parents).flatten(1), expected) < ROUNDING[dtype]


def test_many_rows_merge_the_prefix_in_one_program(monkeypatch):
    parents = [-1, 0, 1, 1]
    cache = filled_cache(1, 64, torch.float16)
    queries = torch.randn(4, 4, 64).half()
    few = attended(queries, cache, 530, 0, parents)
    monkeypatch.setattr(attention, "SMALL_ROWS", 3)
    many = attended(queries, cache, 530, 0, parents)
    assert error(many, few) < 1e-3


def test_a_path_of_a_tree_is_attended_to_as_if_it_came_alone():
    """The rows' keys lie elsewhere, their sums are the same bits."""
    past, parents = 300, [-1, 0, 0, 2, 1]
    path = [0, 2, 3]
    cache, alone = filled_cache(1, 64, torch.float16), filled_cache(1, 64, torch.float16)
    alone.data[:, :, :past] = cache.data[:, :, :past]
    alone.data[:, :, past : past + 3] = cache.data[:, :, [past + row for row in path]]
    queries = torch.randn(5, 8, 64).half()
    tree = attended(queries, cache, past, 0, parents)
    for depth, row in enumerate(path):
        single = attended(queries[row : row + 1], alone, past + depth, 0, [-1])
        if DEVICE.type == "cpu":  # numpy, which interprets products, sums in another order for other numbers of rows
            assert error(single[0], tree[row]) < 1e-3
        else:
            assert torch.equal(single[0], tree[row])


def test_a_cache_grows_and_keeps_what_it_holds():
    cache = GpuCache(2, 64, 5000, torch.float16, DEVICE)
    chunk = cache.chunk
    cache.data.copy_(torch.randn(cache.data.shape))
    before = cache.data.clone()
    cache.reserve(1024)
    assert cache.allocated == 1024
    cache.reserve(1025)
    assert (cache.allocated, cache.chunk) == (2048, chunk)
    assert torch.equal(cache.data[:, :, :1024], before)
    cache.move(torch.tensor([7, 9, 30], dtype=torch.int32, device=DEVICE), 6)
    assert torch.equal(cache.data[:, :, 6:9], before[:, :, [7, 9, 30]])
    with pytest.raises(ValueError, match="cache of 5056 slots for 5057 rows"):
        cache.reserve(5057)


def test_norm_adds_parts_and_bias_to_the_residual_stream():
    hidden, parts, bias, weight = torch.randn(3, 100), torch.randn(2, 3, 100), torch.randn(100), torch.rand(100)
    expected = hidden + parts.sum(0) + bias
    stream = hidden.to(DEVICE, copy=True)
    out = normed(stream, weight.to(DEVICE), 1e-5, torch.float16, parts.to(DEVICE), bias.to(DEVICE))
    assert error(stream, expected) < 1e-6
    assert error(out, reference.rms_norm(expected, weight, 1e-5)) < 1e-3


def test_what_float16_cannot_hold_is_its_greatest_value():
    gate = torch.tensor([300.0, 300, 300, 3, -3, -80, 300])
    up = torch.tensor([300.0, -300, 218.3, 2, 70000, 1e30, torch.nan])
    out = torch.empty(1, 7, dtype=torch.float16, device=DEVICE)
    silu_and_multiply[(1, 1)](torch.cat([gate, up]).to(DEVICE), None, out, 1, 7, 1, TILE=8)
    exact = torch.nn.functional.silu(gate) * up
    assert out[0, :2].tolist() == [65504, -65504]
    assert error(out[0, 2:6], exact[2:6]) < 1e-3
    assert out[0, 6].isnan()


class Projections:
    """Random 4-bit layers, and what they compute."""

    def __init__(self, group, dtype):
        self.group, self.dtype, self.seed = group, dtype, 0

    def make(self, inputs, *outputs, bias=False):
        layers, products = [], []
        for each in outputs:
            self.seed += 1
            awq = random_awq(inputs, each, self.group, self.seed)
            vector = torch.randn(each) if bias else None
            layers.append(Int4Linear.from_awq(awq.qweight, awq.qzeros, awq.scales, vector, DEVICE, self.dtype))
            products.append(
                partial(reference.int4_linear, qweight=awq.qweight, qzeros=awq.qzeros, scales=awq.scales, bias=vector)
            )
        return join(layers), lambda x: torch.cat([product(x) for product in products], 1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [LayerShape(64, 4, 2, 32, 96, 1e-5), LayerShape(128, 4, 1, 80, 64, 1e-6)])
def test_a_layer_computes_what_the_reference_does(shape, dtype):
    hidden, dim, heads, kv_heads = 64, shape.head_dim, shape.num_attention_heads, shape.num_key_value_heads
    hidden, projections = shape.hidden_size, Projections(32, dtype)
    qkv, project_qkv = projections.make(hidden, heads * dim, kv_heads * dim, kv_heads * dim, bias=True)
    output, project_output = projections.make(heads * dim, hidden)
    gate_up, project_gate_up = projections.make(hidden, shape.intermediate_size, shape.intermediate_size)
    down, project_down = projections.make(shape.intermediate_size, hidden, bias=True)
    norms = 0.5 + torch.rand(2, hidden)
    step = make_pass(shape, 20, 0, [-1, 0, 0, 2])
    table = torch.randn(2, 32, dim // 2)
    table[0], table[1] = table[0].cos(), table[0].sin()
    weights = GpuWeights(qkv, output, gate_up, down, norms[0].to(DEVICE), norms[1].to(DEVICE))
    layer = GpuLayer(shape, weights, table.to(DEVICE))
    cache = layer.empty_cache(64)
    cache.data.copy_(torch.randn(cache.data.shape))
    keys, values = cache.data.cpu().float()[:, :, :24]
    positions = [20, 21, 21, 22]
    x = torch.randn(4, hidden)
    ours = x.to(DEVICE, copy=True)
    layer(ours, PassRows.of(20, 0, step.parents, positions).on(DEVICE), cache)

    q, k, v = (
        project_qkv(reference.rms_norm(x, norms[0], shape.rms_norm_eps))
        .view(4, -1, dim)
        .split((heads, kv_heads, kv_heads), 1)
    )
    cos, sin = table[:, positions]
    keys[:, 20:] = reference.apply_rope(k, cos, sin).transpose(0, 1)
    values[:, 20:] = v.transpose(0, 1)
    mask = reference.visible_slots(20, 0, 4, step.parents)
    mixed = reference.attention(reference.apply_rope(q, cos, sin), keys, values, mask)
    middle = x + project_output(mixed)
    gated = reference.silu_and_mul(project_gate_up(reference.rms_norm(middle, norms[1], shape.rms_norm_eps)))
    expected = middle + project_down(gated)
    assert error(cache.data[0, :, 20:24], keys[:, 20:]) < ROUNDING[dtype]
    assert error(cache.data[1, :, 20:24], values[:, 20:]) < ROUNDING[dtype]
    assert error(ours.cpu() - x, expected - x) < 2 * ROUNDING[dtype]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [64, 65, 130])
def test_logits_are_the_same_in_any_number_of_rows(rows, dtype):
    weight = torch.randn(40, 64, device=DEVICE).to(dtype)
    head = GpuHead(DenseLinear(weight))
    norm, x = torch.rand(64, device=DEVICE), torch.randn(rows, 64, device=DEVICE)
    logits = head(x, norm, 1e-6)
    assert logits.dtype == torch.float32
    few = torch.cat([head(part, norm, 1e-6) for part in x.split(64)])
    assert torch.equal(logits, few)


class TestModel:
    """The AWQ target of a small pair, in the GPU's kernels and in plain float32."""

    @pytest.fixture
    def model(self, pair_paths: PairPaths, monkeypatch):
        monkeypatch.setattr(loader, "runs_triton", lambda device: True)
        return load_transformer(pair_paths.awq, LoadOptions(DEVICE))

    @pytest.fixture
    def plain(self, pair_paths: PairPaths):
        return load_transformer(pair_paths.awq, LoadOptions(dtype=torch.float32))

    def passes(self, model):
        """A prompt, a tree, and more of the same tree."""
        cache = model.new_cache(300)
        prompt = model.forward([30, 31, 32], [-1, 0, 1], cache, slice(2, None))
        cache.commit([0, 1, 2])
        tree = model.forward([5, 6, 7], [-1, 0, 0], cache, slice(0, None))
        return torch.cat([prompt, tree, model.forward([8], [2], cache, slice(0, None))]).cpu()

    def test_gives_the_plain_models_logits(self, model, plain):
        model.recordings = None
        assert error(self.passes(model), self.passes(plain)) < 5e-3

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # rows that pad a pass hold anything
    def test_recorded_passes_give_the_same(self, model, plain, monkeypatch):
        if DEVICE.type == "cpu":
            model.recordings = Recordings(model.recordings._stack, record=lambda run: run)
        replays = []
        run = graph._Recording.run
        monkeypatch.setattr(graph._Recording, "run", lambda *all: replays.append(1) or run(*all))
        assert error(self.passes(model), self.passes(plain)) < 5e-3
        assert len(replays) == 3


def stack_without_attention():
    head = GpuHead(DenseLinear(torch.eye(16, 32, device=DEVICE).half()))
    return Stack([lambda hidden, state, cache: None], torch.ones(32, device=DEVICE), 1e-6, head)  # pyright: ignore[reportArgumentType]


def test_recordings_are_made_once_for_each_cache_and_number_of_rows():
    made = []

    def record(run):
        made.append(run)
        return run

    recordings = Recordings(stack_without_attention(), record)
    first, second = (GpuCache(1, 32, 3000, torch.float16, DEVICE) for _ in range(2))

    def run(rows, cache, past=0):
        hidden = torch.randn(rows, 32)
        logits = recordings.run(hidden, PassRows.of(past, 0, range(-1, rows - 1), range(past, past + rows)), [cache])
        assert logits is None or error(logits, reference.rms_norm(hidden, torch.ones(32), 1e-6)[:, :16]) < 1e-3
        return logits

    for rows, cache, recorded in ((3, first, 1), (4, first, 1), (1, first, 2), (3, second, 3), (4, first, 3)):
        assert run(rows, cache) is not None
        assert len(made) == recorded
    assert run(33, second) is None
    assert run(4, second, past=1500) is not None
    assert len(made) == 4, "the cache has grown"


def test_a_recording_that_fails_is_not_tried_again(caplog):
    def record(run):
        raise RuntimeError("no graphs here")

    recordings = Recordings(stack_without_attention(), record)
    cache = GpuCache(1, 32, 300, torch.float16, DEVICE)
    for _ in range(2):
        assert recordings.run(torch.randn(1, 32), PassRows.of(0, 0, [-1], [0]), [cache]) is None
    assert [record.getMessage() for record in caplog.records] == [
        "passes are not recorded as CUDA graphs, which slows small models down: no graphs here"
    ]


def test_a_recording_is_made_whatever_other_threads_do(monkeypatch):
    asked = []

    @contextmanager
    def recording(graph, **options):
        asked.append(options)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=None))
    monkeypatch.setattr(torch.cuda, "graph", recording)
    graph._graph(lambda: None)
    assert asked == [{"capture_error_mode": "thread_local"}]


def test_full_memory_is_an_error_that_says_what_was_needed():
    expected = pytest.raises(TreelineError, match="memory is full.*: /models/70b needs 37.0 GiB; close what else")
    with expected, memory_explained("/models/70b needs 37.0 GiB"):
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")


@on_a_gpu
def test_likely_tokens_are_found_on_the_gpu():
    logits = torch.randn(3, 500)
    ids, logprobs = top_logprobs(logits.to(DEVICE), 5)
    expected_ids, expected = reference.top_logprobs(logits, 5)
    assert torch.equal(ids.cpu(), expected_ids)
    assert error(logprobs, expected) < 1e-5
