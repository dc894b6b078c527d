"""Compiles every GPU kernel for one compute capability and prints how many tensor-core instructions each has."""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.kernels.triton import attention, gemm, rows

INT4 = {"GROUP": 128, "TILE_N": 64}
HEADS = {"HEADS": 64, "KV_HEADS": 8, "HEAD_DIM": 128}
ATTENTION = HEADS | {"SIZE": 128, "CHUNK": 256, "TILE": 32, "ROWS": 16, "MERGED": False}
# Kernel, types of its arguments (a colon: a multiple of 16), what is compiled in, warps.
KERNELS: tuple[Any, ...] = (
    (gemm.int4_product, "*bf16 *i32 *i32 *i32 *fp32 i32 i32: i32: i32", INT4 | {"TILE_M": 16, "STAGES": 3}, 4),
    (gemm.dense_product, "*bf16 *bf16 *fp32 i32 i32: i32: i32", {"TILE_M": 32, "TILE_N": 64, "STEP": 64}, 4),
    (gemm.int4_expand, "*i32 *i32 *i32 *bf16 i32: i32: i32 i32:", INT4, 4),
    (rows.add_norm, "*fp32 *fp32 *fp32 *fp32 *bf16 i32 i32: i32 fp32", {"SIZE": 8192}, 16),
    (rows.rotate_and_store, "*fp32 *fp32 *fp32 *i32 *i32 *bf16 *bf16 i32 i32 i32 i32:", HEADS | {"SIZE": 64}, 1),
    (rows.silu_and_multiply, "*fp32 *fp32 *bf16 i32 i32: i32", {"TILE": 1024}, 4),
    (rows.silu_and_multiply, "*fp32 *fp32 *fp16 i32 i32: i32", {"TILE": 1024}, 4),
    (attention.attend_prefix, "*bf16 *bf16 *i32 *fp32 *fp32 i32 i32: fp32", ATTENTION, 1),
    (attention.attend_rest, "*bf16 *bf16 *i32 *i32 *i32 *fp32 *fp32 *bf16 i32 i32: i32 fp32", ATTENTION, 1),
)


def tensor_core_instructions(case: tuple[Any, ...], capability: int) -> int:
    """Compile one of KERNELS as if for a launch."""
    kernel, types, constants, warps = case
    given = dict(zip(kernel.arg_names, types.split(), strict=False))
    signature = {name: given.get(name, "constexpr").rstrip(":") for name in kernel.arg_names}
    aligned = [name for name, kind in given.items() if kind.endswith(":") or kind.startswith("*")]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    built: Any = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    assert built.asm["cubin"]
    return built.asm["ptx"].count("mma.sync")


if __name__ == "__main__":
    target = int(sys.argv[1])
    print(json.dumps({case[0].__name__: tensor_core_instructions(case, target) for case in KERNELS}))
