"""Plans stay within memory, use it up, and predict what the arithmetic of streaming says."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import TreelineError
from engine.offload.blob import align
from engine.offload.demand import Demand, cpu_demand, gpu_demand
from engine.offload.direct import HUGE_PAGE
from engine.offload.planner import MIB, Costs, Plan, advice, forecast, make_plan, spread, step_seconds, stream_seconds
from engine.offload.shapes import GIB, GPUS, SHAPES, find_gpu, find_shape

LLAMA_70B = SHAPES["llama-3.1-70b"]
LLAMA_8B = SHAPES["llama-3.1-8b"]


@given(total=st.integers(2, 200), data=st.data())
def test_every_beginning_of_the_order_is_spread_evenly(total: int, data: st.DataObject) -> None:
    order = spread(total)
    assert sorted(order) == list(range(total))
    count = data.draw(st.integers(2, total))
    chosen = sorted(order[:count])
    distances = [after - before for before, after in itertools.pairwise(chosen)]
    assert max(distances) <= 2 * -(-2 * total // count)


demands = st.builds(
    Demand,
    pieces=st.lists(st.integers(1, 500 * MIB), min_size=1, max_size=80).map(tuple),
    fixed=st.lists(st.tuples(st.just("part"), st.integers(0, GIB)), max_size=3).map(tuple),
    per_token=st.integers(0, 400_000),
)


@given(demand=demands, memory=st.integers(1, 40 * GIB), host=st.integers(0, 20 * GIB))
def test_a_plan_keeps_within_memory_and_a_refusal_says_what_is_enough(demand: Demand, memory: int, host: int) -> None:
    try:
        plan = make_plan(demand, memory, 1024, 8192, host)
    except TreelineError as error:
        least = int(str(error).split("at least ")[1].split()[0])
        assert least * MIB >= memory
        plan = make_plan(demand, least * MIB, 1024, 8192, host)
        with pytest.raises(TreelineError):
            make_plan(demand, (least - 1) * MIB, 1024, 8192, host)
    assert plan.used <= plan.memory
    assert sorted([*plan.resident, *plan.streamed]) == list(range(len(demand.pieces)))
    assert set(plan.host) <= set(plan.streamed)
    assert sum(align(demand.pieces[number], HUGE_PAGE) for number in plan.host) <= host
    assert plan.resident_bytes + plan.host_bytes + plan.disk_bytes == sum(demand.pieces)
    if plan.streamed:
        assert plan.slots >= 3
        assert plan.memory - plan.used < max(align(size, HUGE_PAGE) for size in demand.pieces)  # no room for one more
    else:
        assert plan.slots == 0


@given(demand=demands, memory=st.integers(GIB, 40 * GIB))
def test_more_memory_never_streams_more(demand: Demand, memory: int) -> None:
    try:
        plan = make_plan(demand, memory, 1024, 8192)
    except TreelineError:
        return
    assert len(make_plan(demand, memory + GIB, 1024, 8192).streamed) <= len(plan.streamed)


def test_a_size_without_its_unit_is_asked_about() -> None:
    demand = Demand((MIB,), (), 0)
    with pytest.raises(
        TreelineError, match=r"^0 MiB of memory \(a number alone counts bytes: was 8GiB meant\?\) are too"
    ):
        make_plan(demand, 8, 1024, 8192)
    with pytest.raises(TreelineError, match="^1 MiB of memory are too little"):
        make_plan(demand, MIB, 1024, 8192)


def a_plan(streamed: int, layers: int = 10, slots: int = 3, host: tuple[int, ...] = ()) -> Plan:
    """`layers` of 100 bytes, the first of them resident."""
    return Plan(0, 1024, slots, tuple(range(layers - streamed)), host, (100,) * layers, (), 0)


# 8 layers of 100 bytes at 100 bytes a second: 8 s of reading, 3 s of it ahead of the pass
@pytest.mark.parametrize(
    ("compute", "draft", "seconds"),
    [(1, 0, 8), (1, 2, 8), (1, 3, 8), (1, 5, 10), (8, 1, 9), (20, 5, 25)],
)
def test_a_step_takes_the_longer_of_reading_and_computing(compute: float, draft: float, seconds: float) -> None:
    costs = Costs(lambda rows: compute, disk=100)
    assert step_seconds(a_plan(8), costs, 1, draft) == pytest.approx(seconds)


def test_reading_takes_its_share_of_the_processor() -> None:
    """800 bytes at 0.01 s each: 8 s that the pass computes longer, unless it waits for the disk anyway."""
    slow, fast = (Costs(lambda rows: 1.0, disk=disk, reading=0.01) for disk in (50, 1e9))
    assert step_seconds(a_plan(8), slow, 1) == pytest.approx(16)
    assert step_seconds(a_plan(8), fast, 1, draft=2) == pytest.approx(11)
    from_host = a_plan(8, host=tuple(range(2, 10)))
    assert step_seconds(from_host, fast, 1) == pytest.approx(1)


def test_without_streaming_only_computing_counts() -> None:
    assert step_seconds(a_plan(0, slots=0), Costs(lambda rows: 0.5 * rows, disk=1), 4, draft=1) == 3


def test_the_slower_of_link_and_disk_bounds_the_stream() -> None:
    plan = a_plan(8, host=(2, 3, 4, 5, 6, 7))  # 600 bytes from the host, 200 from disk
    assert stream_seconds(plan, Costs(lambda rows: 0, disk=100, link=200)) == 4
    assert stream_seconds(plan, Costs(lambda rows: 0, disk=20, link=200)) == 10


def test_the_best_tree_grows_with_what_is_free() -> None:
    """Rows that hide behind the stream are free: the tree takes them all, and none of those that are not."""
    costs = Costs(lambda rows: rows / 10, disk=100, draft=0.01)
    slow, fast = forecast(a_plan(8), costs, (0.7, 0.1)), forecast(a_plan(1), costs, (0.7, 0.1))
    assert fast.nodes < slow.nodes <= 80
    assert slow.seconds == pytest.approx(8)
    assert fast.rate > slow.rate
    assert slow.rate == pytest.approx(slow.tokens / slow.seconds)


def test_advice_names_what_helps_and_nothing_else() -> None:
    reading = Costs(lambda rows: 0.001 * rows, disk=100)
    found = advice(lambda _: a_plan(4), a_plan(8), reading, (0.7, 0.1))
    assert {each.change for each in found[:2]} == {"a disk twice as fast", "4 GiB more memory"}
    assert all(each.saved == pytest.approx(4) for each in found[:2])
    computing = Costs(lambda rows: 10 + rows, disk=1e9)
    assert [each.change for each in advice(lambda _: a_plan(8), a_plan(8), computing, (0.7,))] == [
        "computing twice as fast"
    ]


def test_the_published_shapes_have_their_published_sizes() -> None:
    """AWQ's own layout takes 444,563,456 bytes a layer; a GPU's layout here pads it to whole cache lines and pages."""
    layers = gpu_demand(LLAMA_70B, None).pieces
    assert len(layers) == 80
    assert layers[0] == pytest.approx(444_563_456, rel=1e-3)
    assert gpu_demand(LLAMA_70B, None).per_token == 327_680
    assert cpu_demand(LLAMA_8B, None).per_token == pytest.approx(131_072, rel=0.01)


def test_larger_trees_take_more_memory() -> None:
    usual, larger = cpu_demand(LLAMA_70B, None), cpu_demand(LLAMA_70B, None, budget=512)
    rows = larger.extra_tokens - usual.extra_tokens
    assert rows == 512 - 64
    assert dict(larger.fixed)["activations"] - dict(usual.fixed)["activations"] == rows * 4 * 128_256
    assert cpu_demand(LLAMA_70B, None, budget=8) == usual


@pytest.mark.parametrize(("gpu", "resident"), [("rtx4090", 42), ("rtx4080s", 23), ("rtx4070ti", 13), ("rtx5090", 62)])
def test_graphics_cards_hold_what_arithmetic_says(gpu: str, resident: int) -> None:
    demand = gpu_demand(LLAMA_70B, find_shape("codedrafter-500m"))
    plan = make_plan(demand, find_gpu(gpu).memory, None, 131072, host=64 * GIB)
    assert len(plan.resident) == pytest.approx(resident, abs=1)
    assert len(plan.host) == 80 - len(plan.resident)


@pytest.mark.parametrize("name", [gpu.name for gpu in GPUS])
def test_every_card_can_run_a_70b(name: str) -> None:
    memory = find_gpu(name).memory
    plan = make_plan(gpu_demand(LLAMA_70B, None), memory, None, 131072)
    assert plan.least <= plan.used <= memory


def test_unknown_names_are_said() -> None:
    with pytest.raises(TreelineError, match='no GPU called "rtx4900" is known: did you mean "rtx4090"'):
        find_gpu("rtx4900")
    with pytest.raises(TreelineError, match='no shape called "llama-3-70b" is known: did you mean'):
        find_shape("llama-3-70b")


def test_the_context_that_is_chosen_leaves_memory_to_weights() -> None:
    demand = replace(cpu_demand(LLAMA_70B, None), fixed=())
    assert make_plan(demand, 24 * GIB, None, 131072).context == 4096
    assert make_plan(demand, 6 * GIB, None, 131072).context == 4096
    assert make_plan(demand, 3 * GIB, None, 131072).context == 2048
    assert make_plan(demand, 6 * GIB, None, 512).context == 512
    assert make_plan(demand, 6 * GIB, 3000, 131072).context == 3000
