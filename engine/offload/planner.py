"""Where the weights of a target go when memory is short, and how long a pass takes then.

They come in pieces: layers, parts of layers and of the output projection, in the order of a pass.

A step of a completion drafts for d seconds and then passes over all pieces. With streamed bytes B at bandwidth W, C
seconds of computing, r seconds of it lost per byte read and a ring of S buffers of b bytes it takes
max(B / W + max(0, d - S b / W), C + r B + d) seconds: reading goes on while the drafter and the layers compute, but no
further ahead than the ring is long, and not for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.errors import TreelineError
from engine.offload.blob import align
from engine.offload.demand import Demand
from engine.offload.direct import HUGE_PAGE
from engine.offload.stream import LEAST_SLOTS
from engine.speculation.budget import expected_tokens

MIB = 2**20
CONTEXTS = (4096, 2048, 1024)  # tokens, where the user names none: the longest whose cache takes a quarter of memory
MARGIN = 64 * MIB  # what the allocator and the tokenizer may still take
LEAST_MEANT = 10_000  # bytes; who asks for less has forgotten the unit
MOST_NODES, MOST_DEPTH = 512, 32
MORE_MEMORY = 4 * 2**30  # of the suggestion to allow more


@dataclass(frozen=True, slots=True)
class Plan:
    """Which pieces stay in the memory of what computes; sizes in bytes.

    `host`: pieces that stay in the host's memory, for a device that has its own; all others come from disk.
    """

    memory: int
    context: int
    slots: int
    resident: tuple[int, ...]
    host: tuple[int, ...]
    pieces: tuple[int, ...]
    items: tuple[tuple[str, int], ...]
    least: int

    @property
    def streamed(self) -> tuple[int, ...]:
        """The pieces that are not resident."""
        return tuple(sorted(set(range(len(self.pieces))) - set(self.resident)))

    @property
    def streamed_bytes(self) -> int:
        """Moved in each pass."""
        return sum(self.pieces[index] for index in self.streamed)

    @property
    def resident_bytes(self) -> int:
        """Of the weights that stay."""
        return sum(self.pieces[number] for number in self.resident)

    @property
    def host_bytes(self) -> int:
        """Of the weights that a pass streams from the host's memory."""
        return sum(self.pieces[number] for number in self.host)

    @property
    def disk_bytes(self) -> int:
        """Of the weights that a pass reads from disk."""
        return self.streamed_bytes - self.host_bytes

    @property
    def used(self) -> int:
        """Bytes of memory that all items take together."""
        return sum(size for _, size in self.items)


def make_plan(demand: Demand, memory: int, context: int | None, most_context: int, host: int = 0) -> Plan:
    """Share `memory` out: as many pieces resident as fit, spread evenly between the streamed ones.

    `context`: tokens, or None to choose. `host`: bytes of the host's memory for pieces that the device cannot hold.
    Raises TreelineError that says the least that works.
    """
    tokens = min(context or choose_context(demand, memory, most_context), most_context)
    fixed = (*demand.fixed, ("KV cache", demand.per_token * (tokens + demand.extra_tokens)), ("margin", MARGIN))
    room = memory - sum(size for _, size in fixed)
    sizes = [align(size, HUGE_PAGE) for size in demand.pieces]
    least = _least(demand, tokens)
    if memory < least:
        meant = f" (a number alone counts bytes: was {memory}GiB meant?)" if memory < LEAST_MEANT else ""
        raise TreelineError(
            f"{memory / MIB:.0f} MiB of memory{meant} are too little for this model: it needs at least"
            f" {-(-least // MIB)} MiB with a context of {tokens} tokens (weights are streamed then); allow more, or"
            " choose a smaller context_length or model"
        )
    ring = LEAST_SLOTS * max(sizes) if sum(sizes) > room else 0
    resident = _choose(sizes, range(len(sizes)), room - ring)
    rest = [number for number in range(len(sizes)) if number not in set(resident)]
    items = (*fixed, ("weights", sum(sizes[number] for number in resident)), ("ring", ring))
    return Plan(
        memory,
        tokens,
        LEAST_SLOTS if ring else 0,
        resident,
        _choose(sizes, rest, host),
        demand.pieces,
        items,
        least,
    )


def spread(total: int) -> list[int]:
    """The numbers below `total` in an order of which every beginning is spread evenly: that of their bits, reversed."""
    bits = max(total - 1, 1).bit_length()
    return sorted(range(total), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2))


def _choose(sizes: Sequence[int], numbers: Sequence[int], room: int) -> tuple[int, ...]:
    """Of `numbers`, in ascending order, as many as fit into `room` bytes, spread evenly."""
    chosen: list[int] = []
    for place in spread(len(numbers)) if numbers else ():
        room -= sizes[numbers[place]]
        if room < 0:
            break
        chosen.append(numbers[place])
    return tuple(sorted(chosen))


def choose_context(demand: Demand, memory: int, most: int) -> int:
    """Tokens of context, at most `most`, that leave most of the memory to weights."""
    for tokens in (min(each, most) for each in CONTEXTS):
        if 4 * demand.per_token * tokens <= memory and _least(demand, tokens) <= memory:
            return tokens
    return min(CONTEXTS[-1], most)


def _least(demand: Demand, tokens: int) -> int:
    """Bytes without which nothing works: all weights, or a ring to stream them through, beside what is fixed."""
    sizes = [align(size, HUGE_PAGE) for size in demand.pieces]
    weights = min(sum(sizes), LEAST_SLOTS * max(sizes))
    return sum(size for _, size in demand.fixed) + demand.per_token * (tokens + demand.extra_tokens) + MARGIN + weights


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of computing all pieces for a number of rows, and bytes per second.

    `disk`: 0 where it is not known, and nothing is streamed.
    `link`: into the device's memory from the host's, None where they are one. `reading`: seconds of computing lost per
    byte that is read from disk at the same time.
    """

    compute: Callable[[int], float]
    disk: float
    link: float | None = None
    draft: float = 0.0  # of one pass of the drafter
    reading: float = 0.0


def stream_seconds(plan: Plan, costs: Costs) -> float:
    """Time of moving what one pass streams."""
    link = costs.link or float("inf")
    return max(plan.streamed_bytes / link, plan.disk_bytes / costs.disk if plan.disk_bytes else 0.0)


def step_seconds(plan: Plan, costs: Costs, rows: int, draft: float = 0.0) -> float:
    """Time of drafting for `draft` seconds and one pass over `rows` rows (see the formula above)."""
    stream = stream_seconds(plan, costs)
    ahead = stream * plan.slots / max(len(plan.streamed), 1)
    computing = costs.compute(rows) + costs.reading * plan.disk_bytes + draft
    return max(stream + max(0.0, draft - ahead) if stream else 0.0, computing)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The best tree for a plan: nodes (root included), depth, and what a step with it takes and yields."""

    nodes: int
    depth: int
    seconds: float
    tokens: float

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def forecast(plan: Plan, costs: Costs, acceptance: Sequence[float], most_nodes: int = MOST_NODES) -> Forecast:
    """Choose the tree that yields the most tokens per second.

    `acceptance[i]`: the chance that the i-th child of an accepted node is the accepted one, best first.
    """
    table = expected_tokens(acceptance, most_nodes, MOST_DEPTH)
    times = np.array(
        [
            [step_seconds(plan, costs, nodes, depth * costs.draft) for nodes in range(1, most_nodes + 1)]
            for depth in range(MOST_DEPTH + 1)
        ]
    )
    depth, column = np.unravel_index(int((table[:, 1:] / times).argmax()), times.shape)
    tokens, seconds = float(table[depth, column + 1]), float(times[depth, column])
    return Forecast(int(column) + 1, int(depth), seconds, tokens)


@dataclass(frozen=True, slots=True)
class Advice:
    """A change, the seconds that it takes off a pass of one row, and tokens per second with the best tree then."""

    change: str
    saved: float
    rate: float


def advice(replan: Callable[[int], Plan], plan: Plan, costs: Costs, acceptance: Sequence[float]) -> list[Advice]:
    """What would help, the most effective first. `replan`: a plan for so many bytes of memory more."""
    now = step_seconds(plan, costs, 1)
    rate = forecast(plan, costs, acceptance).rate
    changes = [
        ("4 GiB more memory", replan(MORE_MEMORY), costs),
        ("a disk twice as fast", plan, replace(costs, disk=2 * costs.disk)),
        ("computing twice as fast", plan, _twice_as_fast(costs)),
    ]
    if costs.link:
        changes.append(("a link twice as fast", plan, replace(costs, link=2 * costs.link)))
    found = [
        Advice(change, now - step_seconds(changed, with_costs, 1), forecast(changed, with_costs, acceptance).rate)
        for change, changed, with_costs in changes
    ]
    return sorted((each for each in found if each.rate > 1.01 * rate), key=lambda each: -each.rate)


def _twice_as_fast(costs: Costs) -> Costs:
    def compute(rows: int) -> float:
        return costs.compute(rows) / 2

    return replace(costs, compute=compute, draft=costs.draft / 2, reading=costs.reading / 2)
