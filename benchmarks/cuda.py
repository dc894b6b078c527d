"""Checks and times the GPU's kernels: products, attention, layers, whole passes, recorded and not.

Run: python -m benchmarks.cuda [--parts check,product,attention,pass] [--rows 1,4,8,16,32,64] [--out runs/cuda.json]

Products are held against torch's float16 product, torch's own 4-bit product (tinygemm) and the time that the weights'
bytes take at the bandwidth measured in the same run. Times are the GPU's own, except those of passes, which are what a
caller waits for. `--dry-run` needs no GPU: tiny shapes in Triton's interpreter, nothing timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import gpu_cases as cases
from benchmarks.common import environment, print_table
from benchmarks.gpu_cases import MODELS, TINY, Model, device_ms, error
from engine.kernels import reference
from engine.kernels.cuda import GpuCache, Int4Linear, Recordings, Stack
from engine.kernels.gpu.attention import tree_attention
from engine.kernels.gpu.product import tiles
from engine.kernels.gpu.tune import Product

Row = dict[str, Any]
SETS_BYTES = 512 << 20  # of weights that take turns, so that no cache holds them
PASTS = (512, 8192)


@dataclass(frozen=True, slots=True)
class Run:
    """What all parts share. `bandwidth` in bytes per second; None: nothing is timed."""

    device: torch.device
    dtype: torch.dtype
    models: tuple[Model, ...]
    rows: list[int]
    bandwidth: float | None

    def ms(self, calls: list[Callable[[], object]]) -> float | None:
        """See device_ms."""
        return None if self.bandwidth is None else device_ms(calls)

    def floor_ms(self, size: int) -> float | None:
        """Milliseconds that reading `size` bytes takes at least."""
        return None if self.bandwidth is None else 1e3 * size / self.bandwidth


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a large copy."""
    source = torch.randint(0, 256, (1 << 30,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (device_ms([lambda: target.copy_(source)] * 4) / 1e3)


def check(run: Run) -> Iterator[Row]:
    """Products against the checkpoint's own numbers; rows alone and together, bit for bit."""
    inputs, outputs = (1152, 1000) if run.bandwidth else (320, 72)
    for group in (32, 64):
        q = torch.randint(0, 16, (inputs, outputs))
        zeros = torch.randint(0, 16, (inputs // group, outputs))
        scales = ((0.5 + torch.rand(inputs // group, outputs)) * 0.15 * inputs**-0.5).half()
        awq = reference.pack_nibbles(q), reference.pack_nibbles(zeros), scales
        linear = Int4Linear.from_awq(*awq, None, run.device, run.dtype)
        for rows in (1, 17, 40, 100):
            x = torch.randn(rows, inputs).to(run.dtype)
            actual = linear(x.to(run.device)).cpu()
            yield {"what": f"int4 g{group}", "rows": rows, "error": error(actual, reference.int4_linear(x, *awq))}
    yield from _independent_rows(run)


def _independent_rows(run: Run) -> Iterator[Row]:
    for model in run.models:
        layer, hidden = cases.layer(model, run.device, run.dtype), model.shape.hidden_size
        most = max(row for row in run.rows if row <= 64)
        x = torch.randn(most, hidden, device=run.device)
        (cache,) = cases.caches(model, 1, 1024, run.device, run.dtype)
        together = x.clone()
        layer(together, cases.tree(300, most).on(run.device), cache)
        for rows in {1, min(5, most), min(17, most)}:  # the first rows of the tree are a tree
            fewer = x[:rows].clone()
            layer(fewer, cases.tree(300, rows).on(run.device), cache)
            differing = int((fewer != together[:rows]).any(1).sum())
            yield {"what": f"{model.name}: rows that others change", "rows": rows, "differing": differing}


def product(run: Run) -> Iterator[Row]:
    """Every projection of every shape."""
    for model in run.models:
        shapes = dict(model.products)
        if not model.group:
            shapes["head"] = (model.shape.hidden_size, model.vocabulary)
        for name, (k, n) in shapes.items():
            yield from _product(run, f"{model.name} {name}", k, n, model.group)
            if run.bandwidth:
                torch.cuda.empty_cache()


def _product(run: Run, name: str, k: int, n: int, group: int) -> Iterator[Row]:
    size = k * n // 2 if group else 2 * k * n
    count = max(1, min(16, SETS_BYTES // size)) if run.bandwidth else 1
    sets: list[Any] = [
        cases.int4(k, n, group, run.device, run.dtype) if group else cases.dense(k, n, run.device, run.dtype)
        for _ in range(count)
    ]
    plain = [each.dequantize().T.contiguous() if group else each.weight for each in sets[: max(1, count // 4)]]
    tinygemm = _tinygemm(run, k, n, group)
    for rows in run.rows:
        x = torch.randn(rows, k, device=run.device, dtype=run.dtype)
        expected = x.float() @ plain[0].float().T
        row: Row = {"what": name, "rows": rows, "k": k, "n": n, "bytes": size}
        row["error"] = error(sets[0](x), expected)
        row["floor_ms"] = run.floor_ms(size)
        row["ms"] = run.ms([lambda x=x, each=each: each.parts(x) for each in sets])
        row["linear_ms"] = run.ms([lambda x=x, weight=weight: functional.linear(x, weight) for weight in plain])
        row["tinygemm_ms"] = run.ms([lambda x=x: tinygemm(x)]) if tinygemm else None
        if group:
            row["expand_ms"] = run.ms([lambda x=x, each=each: each._expanded(x) for each in sets])
        row["tiles"] = str(tiles(Product(n, k, group, run.dtype, run.device, rows > 16)))
        yield row


def _tinygemm(run: Run, k: int, n: int, group: int) -> Callable[[Tensor], Tensor] | None:
    """Torch's product with weights that have 4 bits, where its packing is to be had. One set: a cache may hold it."""
    if not group or not run.bandwidth:
        return None
    try:
        raw = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device=run.device)
        packed = torch.ops.aten._convert_weight_to_int4pack(raw, 8)
        scales = torch.rand(k // group, n, 2, device=run.device, dtype=torch.bfloat16) * 0.01
        call = lambda x: torch.ops.aten._weight_int4pack_mm(x.bfloat16(), packed, group, scales)  # noqa: E731
        call(torch.randn(1, k, device=run.device))
    except (RuntimeError, NotImplementedError) as problem:
        print(f"no tinygemm for K{k} N{n}: {problem}", file=sys.stderr)
        return None
    return call


def attention(run: Run) -> Iterator[Row]:
    """Trees over a prefix, against torch's attention with a mask."""
    for model in run.models:
        shape = model.shape
        for past in PASTS if run.bandwidth else (300,):
            (cache,) = cases.caches(model, 1, past + 512, run.device, run.dtype)
            for rows in run.rows:
                tree = cases.tree(past, rows)
                state = tree.on(run.device)
                sizes = (rows, shape.num_attention_heads, shape.head_dim)
                queries = torch.randn(sizes, device=run.device, dtype=run.dtype)
                parents = [-1 if row == 0 else (row - 1) // 2 for row in range(rows)]
                mask = reference.visible_slots(past, 0, rows, parents).to(run.device)
                keys, values = cache.data[:, :, : past + rows]
                expected = reference.attention(queries, keys, values, mask).view(sizes)
                size = 2 * keys.nbytes
                yield {
                    "what": f"{model.name} past {past}",
                    "rows": rows,
                    "error": error(tree_attention(queries, state, cache), expected),
                    "floor_ms": run.floor_ms(size),
                    "ms": run.ms([lambda q=queries, s=state, c=cache: tree_attention(q, s, c)] * 8),
                    "linear_ms": run.ms([_torch_attention(queries, keys, values, mask)] * 8),
                }


def _torch_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Callable[[], Tensor]:
    """What the plain layer calls: the heads of a group as rows."""
    rows, heads, head_dim = queries.shape
    kv_heads = len(keys)
    folded = queries.view(rows, kv_heads, -1, head_dim).permute(1, 2, 0, 3).reshape(1, kv_heads, -1, head_dim)
    wide = mask.repeat(heads // kv_heads, 1)
    return lambda: functional.scaled_dot_product_attention(folded, keys[None], values[None], attn_mask=wide)


def whole_pass(run: Run) -> Iterator[Row]:
    """A layer by the GPU's clock; whole models by the caller's, launched one by one and from a recording."""
    for model in run.models:
        stack = cases.stack(model, run.device, run.dtype)
        caches = cases.caches(model, model.layers, 1024, run.device, run.dtype)
        recordings = Recordings(stack) if run.bandwidth else Recordings(stack, record=lambda body: body)
        for rows in run.rows:
            yield _whole_pass(run, model, (stack, recordings, caches), rows)


def _whole_pass(run: Run, model: Model, loaded: tuple[Stack, Recordings, list[GpuCache]], rows: int) -> Row:
    stack, recordings, caches = loaded
    tree = cases.tree(512, rows)
    state = tree.on(run.device)
    hidden = torch.randn(rows, model.shape.hidden_size, device=run.device)
    eager = stack(hidden.clone(), state, caches)
    recorded = recordings.run(hidden, tree, caches)
    row: Row = {"what": f"{model.name}, {model.layers} layers and head", "rows": rows}
    row["layer_floor_ms"] = run.floor_ms(model.layer_bytes)
    row["layer_ms"] = run.ms([lambda: stack.layers[0](hidden.clone(), state, caches[0])] * 4)
    row["floor_ms"] = run.floor_ms(model.layer_bytes * model.layers + 2 * model.shape.hidden_size * model.vocabulary)
    row["ms"] = _waited(run, lambda: stack(hidden.clone(), tree.on(run.device), caches))
    if recorded is not None:
        row["error"] = error(recorded, eager)
        row["recorded_ms"] = _waited(run, lambda: recordings.run(hidden, tree, caches))
    return row


def _waited(run: Run, call: Callable[[], object], rounds: int = 9) -> float | None:
    """Milliseconds from the call until the GPU is done, the median."""
    if run.bandwidth is None:
        return None
    times: list[float] = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[2:])


PARTS = {"check": check, "product": product, "attention": attention, "pass": whole_pass}
COLUMNS = (
    "error",
    "differing",
    "floor_ms",
    "ms",
    "recorded_ms",
    "layer_floor_ms",
    "layer_ms",
    "linear_ms",
    "tinygemm_ms",
    "expand_ms",
)


def table(rows: list[Row]) -> None:
    """Print what was found; a column that no row has is left out."""
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]

    def cell(value: object) -> str:
        return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    print_table(
        ["", "rows", *columns],
        [[row["what"], str(row["rows"]), *(cell(row.get(name)) for name in columns)] for row in rows],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"which of {', '.join(PARTS)}")
    parser.add_argument("--rows", default="1,4,8,16,32,64", help="row counts")
    parser.add_argument("--models", default="", help="only models whose name contains this")
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16"])
    parser.add_argument("--out", type=Path, help="also write everything as JSON to this file")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes in Triton's interpreter, without a GPU")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print("torch finds no GPU: --dry-run checks what can be checked without one", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device("cpu" if options.dry_run else "cuda")
    bandwidth = None if options.dry_run else copy_bandwidth(device)
    models = tuple(model for model in (TINY if options.dry_run else MODELS) if options.models in model.name)
    rows = [1, 3] if options.dry_run else [int(count) for count in options.rows.split(",")]
    run = Run(device, getattr(torch, options.dtype), models, rows, bandwidth)
    name = "Triton's interpreter" if options.dry_run else torch.cuda.get_device_name()
    report: dict[str, Any] = {"gpu": name, "bandwidth": bandwidth, "environment": environment()}
    for part in options.parts.split(","):
        report[part] = list(PARTS[part](run))
        if options.out:  # after every part: what is measured is kept, whatever comes next
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(report, indent=1, default=asdict))
    print(f"{name}, {options.dtype}" + (f", copies at {bandwidth / 1e9:.0f} GB/s" if bandwidth else ""))
    for part in options.parts.split(","):
        print(f"\n{part}")
        table(report[part])
    return 0


if __name__ == "__main__":
    sys.exit(main())
