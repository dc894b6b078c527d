"""Times the CPU kernels beside torch's own operators in the same process.

Run: python -m benchmarks.kernels [--json] [--ops linear4,linear8,layer,top] [--rows 1,4,16,64] [--seconds 0.5]

Ours and torch's take turns, and the fastest of many runs counts, so that other work on the machine disturbs both
alike. GB/s counts the bytes of weights, GOP/s two operations per weight and row.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from engine.kernels import cpu
from engine.kernels.cpu import LayerShape, LayerWeights, NativeCache, NativeLayer, PackedLinear, Step, top_logprobs
from engine.kernels.weights import NativeWeights, Shape, TorchInt4Weights, block_bytes

LINEARS = ((256, 1024, 64), (512, 2048, 128), (2048, 8192, 128), (4096, 14336, 128))  # K, N, group
HEADS = ((512, 16384), (2048, 32768))  # K, vocabulary
LAYERS = (
    LayerShape(256, 4, 2, 64, 768, 1e-5),
    LayerShape(512, 8, 4, 64, 1536, 1e-5),
    LayerShape(2048, 32, 8, 64, 8192, 1e-5),
)
VOCABULARIES = (16384, 151936)
PAST = 512  # committed positions when a layer is timed


@dataclass(frozen=True, slots=True)
class Case:
    """Two ways to compute the same thing."""

    op: str
    shape: str
    rows: int
    weight_bytes: int
    operations: int
    ours: Callable[[], object]
    baseline_name: str
    baseline: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """A line of the table; times in milliseconds."""

    op: str
    shape: str
    rows: int
    ms: float
    gb_per_s: float
    gop_per_s: float
    baseline: str
    baseline_ms: float
    speedup: float


def awq_tensors(inputs: int, outputs: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random weights of an AWQ layer."""
    low, high = -(1 << 31), (1 << 31) - 1
    words = torch.randint(low, high, (inputs, outputs // 8), dtype=torch.int64).to(torch.int32)
    zeros = torch.randint(low, high, (inputs // group, outputs // 8), dtype=torch.int64).to(torch.int32)
    return words, zeros, torch.rand(inputs // group, outputs).half() * 0.01


def packed(inputs: int, outputs: int, group: int) -> PackedLinear:
    """A 4-bit layer."""
    return PackedLinear.from_awq(*awq_tensors(inputs, outputs, group), group)


def linear4_cases(rows: list[int]) -> Iterator[Case]:
    for inputs, outputs, group in LINEARS:
        shape = Shape(inputs, outputs, group, 4)
        tensors = awq_tensors(inputs, outputs, group)
        theirs = TorchInt4Weights.from_awq(shape, *tensors)
        ours = PackedLinear(shape, NativeWeights.from_awq(shape, *tensors))
        for m in rows:
            x = torch.randn(m, inputs)
            half = x.bfloat16()

            yield Case(
                "linear4",
                f"K{inputs} N{outputs} g{group}",
                m,
                block_bytes(shape),
                2 * m * inputs * outputs,
                lambda x=x, ours=ours: ours(x),
                "torch int4",
                lambda x=half, theirs=theirs, g=group: torch.ops.aten._weight_int4pack_mm_for_cpu(
                    x, theirs.packed, g, theirs.scales_and_offsets
                ),
            )


def linear8_cases(rows: list[int]) -> Iterator[Case]:
    for inputs, outputs in HEADS:
        weight = torch.randn(outputs, inputs)
        ours = PackedLinear.from_dense(weight)
        half = weight.bfloat16()
        for m in rows:
            x = torch.randn(m, inputs)
            half_x = x.bfloat16()
            yield Case(
                "linear8",
                f"K{inputs} N{outputs} g64",
                m,
                block_bytes(ours.shape),
                2 * m * inputs * outputs,
                lambda x=x, ours=ours: ours(x),
                "torch bf16",
                lambda x=half_x, half=half: torch.nn.functional.linear(x, half),
            )


def random_layer(shape: LayerShape) -> LayerWeights:
    """Weights of one decoder layer in groups of 64."""
    hidden, context = shape.hidden_size, shape.num_attention_heads * shape.head_dim
    width = context + 2 * shape.num_key_value_heads * shape.head_dim
    return LayerWeights(
        packed(hidden, width, 64),
        packed(context, hidden, 64),
        packed(hidden, 2 * shape.intermediate_size, 64),
        packed(shape.intermediate_size, hidden, 64),
        torch.ones(hidden),
        torch.ones(hidden),
    )


def layer_cases(rows: list[int]) -> Iterator[Case]:
    for shape in LAYERS:
        weights = random_layer(shape)
        layer = NativeLayer(shape, weights)
        linears = (weights.qkv, weights.output, weights.gate_up, weights.down)
        for m in rows:
            hidden = torch.randn(m, shape.hidden_size)
            step = Step(PAST, 0, range(-1, m - 1), range(PAST, PAST + m), torch.randn(2, PAST + m, shape.head_dim // 2))
            cache = NativeCache(shape.num_key_value_heads, shape.head_dim, PAST + m)
            inputs = [torch.randn(m, linear.in_features) for linear in linears]

            def four_products(inputs: list[Tensor] = inputs, linears: tuple[PackedLinear, ...] = linears) -> object:
                return [linear(x) for linear, x in zip(linears, inputs, strict=True)]

            yield Case(
                "layer",
                f"H{shape.hidden_size} I{shape.intermediate_size} past {PAST}",
                m,
                sum(block_bytes(linear.shape) for linear in linears),
                2 * m * sum(linear.in_features * linear.out_features for linear in linears),
                lambda layer=layer, hidden=hidden, step=step, cache=cache: layer(hidden, step, cache),
                "its 4 products",
                four_products,
            )


def top_cases(rows: list[int]) -> Iterator[Case]:
    for vocabulary in VOCABULARIES:
        for m in rows:
            logits = torch.randn(m, vocabulary)
            yield Case(
                "top_logprobs",
                f"V{vocabulary} k16",
                m,
                m * vocabulary * 4,
                m * vocabulary,
                lambda logits=logits: top_logprobs(logits, 16),
                "torch",
                lambda logits=logits: logits.log_softmax(-1).topk(16),
            )


OPS: dict[str, Callable[[list[int]], Iterator[Case]]] = {
    "linear4": linear4_cases,
    "linear8": linear8_cases,
    "layer": layer_cases,
    "top": top_cases,
}


def measure(case: Case, seconds: float) -> Timing:
    """The fastest run of each side within about `seconds`.

    They take turns of 30 ms, not of single runs: torch's OpenMP threads go on spinning for some milliseconds after a
    product and would take a core from ours.
    """
    best = [float("inf"), float("inf")]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for side, run in enumerate((case.ours, case.baseline)):
            turn, runs = time.perf_counter() + 0.03, 0
            while runs < 3 or time.perf_counter() < turn:
                start = time.perf_counter()
                run()
                best[side] = min(best[side], time.perf_counter() - start)
                runs += 1
    return Timing(
        case.op,
        case.shape,
        case.rows,
        best[0] * 1e3,
        case.weight_bytes / best[0] / 1e9,
        case.operations / best[0] / 1e9,
        case.baseline_name,
        best[1] * 1e3,
        best[1] / best[0],
    )


def line(timing: Timing) -> str:
    """One row of the table."""
    return (
        f"{timing.op:12} {timing.shape:24} {timing.rows:5} {timing.ms:9.4f} {timing.gb_per_s:7.1f} "
        f"{timing.gop_per_s:8.1f}  {timing.baseline:14} {timing.baseline_ms:9.4f} {timing.speedup:6.2f}x"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--ops", default=",".join(OPS), help=f"which of {', '.join(OPS)}")
    parser.add_argument("--rows", default="1,4,8,16,32,64", help="row counts")
    parser.add_argument("--seconds", type=float, default=0.5, help="time per line")
    options = parser.parse_args()
    if not cpu.available():
        print("the native kernels are not available on this machine", file=sys.stderr)
        return 1
    rows = [int(m) for m in options.rows.split(",")]
    timings: list[Timing] = []
    if not options.json:
        print(
            f"{'op':12} {'shape':24} {'rows':>5} {'ms':>9} {'GB/s':>7} {'GOP/s':>8}  {'against':14} {'ms':>9} speedup"
        )
    for name in options.ops.split(","):
        for case in OPS[name](rows):
            timings.append(measure(case, options.seconds))
            if not options.json:
                print(line(timings[-1]), flush=True)
    if options.json:
        report = {
            "threads": cpu.threads(),
            "torch": torch.__version__,
            "timings": [asdict(t) for t in timings],
        }
        print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
