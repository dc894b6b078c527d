"""The kernels for Arm, compiled for it and run by an emulator, against the same calls on this machine's processor.

Integers must agree to the bit, and so must products whose activations are not normalised first: a row's operations are
the same on all processors. Where lanes are summed up, their number decides about the last bits.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.kernels import build, native
from engine.kernels.checksum import checksum
from engine.kernels.cpu import LayerShape, NativeCache, NativeLayer, PackedLinear, available, top_logprobs
from engine.kernels.weights import NativeWeights
from tests.engine.kernel_layers import make_pass, random_awq, random_layer, random_linear

COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
SOURCE = Path(__file__).with_name("emulated.cpp")
pytestmark = [
    pytest.mark.skipif(COMPILER is None or EMULATOR is None, reason="no cross compiler and emulator for Arm"),
    pytest.mark.skipif(not available(), reason="no native kernels to compare with"),
]
Call = Callable[..., list[bytes]]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Calls a kernel: integers, tensors, bytes and None (an empty block) go in, blocks of bytes come out."""
    program = tmp_path_factory.mktemp("arm") / "emulated"
    flags = [flag for flag in build.flags("armv8.2-a+dotprod") if flag not in ("-fPIC", "-shared")]
    command = [str(COMPILER), *flags, "-static", "-I", str(build.SOURCES), str(SOURCE), "-o", str(program)]
    subprocess.run(command, check=True, timeout=build.COMPILE_SECONDS)

    def run(name: str, *arguments: int | Tensor | bytes | None) -> list[bytes]:
        sent = b"".join(_encoded(each) for each in (name.encode(), *arguments))
        done = subprocess.run([str(EMULATOR), str(program)], input=sent, capture_output=True, check=True, timeout=300)
        blocks: list[bytes] = []
        rest = done.stdout
        while rest:
            [length] = struct.unpack("<q", rest[:8])
            blocks.append(rest[8 : 8 + length])
            rest = rest[8 + length :]
        return blocks

    return run


def _encoded(value: int | Tensor | bytes | None) -> bytes:
    if isinstance(value, int):
        return struct.pack("<q", value)
    data = b"" if value is None else value if isinstance(value, bytes) else bytes_of(value)
    return struct.pack("<q", len(data)) + data


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def floats(block: bytes, *shape: int) -> Tensor:
    return torch.from_numpy(np.frombuffer(block, np.float32).copy()).view(*shape)


def sizes(linear: PackedLinear) -> tuple[int, int, int, int]:
    return linear.in_features, linear.out_features, linear.group_size, linear.bits


def parts(linear: PackedLinear) -> tuple[int | Tensor | None, ...]:
    assert isinstance(linear.weights, NativeWeights)
    return *sizes(linear), linear.weights.blocks, linear.padded_bias


def test_these_are_the_kernels_for_arm(call: Call) -> None:
    assert call("instruction set") == [b"NEON with dot products"]
    assert native.required().tl_instruction_set() != b"NEON with dot products"


@pytest.mark.parametrize("group", [32, 64, 128])
def test_awq_weights_are_packed_alike(call: Call, group: int) -> None:
    awq = random_awq(256, 144, group)
    ours = PackedLinear.from_awq(awq.qweight, awq.qzeros, awq.scales, group)
    assert isinstance(ours.weights, NativeWeights)
    packed, values = call("pack_awq", *sizes(ours), awq.qweight, awq.qzeros, awq.scales)
    assert packed == bytes_of(ours.weights.blocks)
    assert values == bytes_of(ours.dequantize())


@pytest.mark.parametrize(("number", "dtype"), [(0, torch.float32), (1, torch.float16), (2, torch.bfloat16)])
def test_dense_weights_are_packed_alike(call: Call, number: int, dtype: torch.dtype) -> None:
    weight = torch.randn(70, 128, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = PackedLinear.from_dense(weight)
    assert isinstance(ours.weights, NativeWeights)
    packed, values = call("pack_dense", *sizes(ours), number, weight)
    assert packed == bytes_of(ours.weights.blocks)
    assert values == bytes_of(ours.dequantize())


@pytest.mark.parametrize("rows", [1, 3, 4, 9, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_agree_to_the_bit(call: Call, bits: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    if bits == 4:
        linear = random_linear(512, 200, 64, rows, bias=True)
    else:
        linear = PackedLinear.from_dense(torch.randn(200, 512, generator=generator))
    x = torch.randn(rows, 512, generator=generator) * 10
    [y] = call("linear", *parts(linear), rows, x, None)
    assert torch.equal(floats(y, rows, 200), linear(x))
    norm = 0.5 + torch.rand(512, generator=generator)
    [y] = call("linear", *parts(linear), rows, x, norm)
    normed = torch.nn.functional.rms_norm(x, (512,), norm, 1e-5)
    torch.testing.assert_close(
        floats(y, rows, 200), linear(normed), rtol=0, atol=0.01 * float(linear(normed).abs().max())
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        LayerShape(128, 4, 2, 32, 256, 1e-5),
        LayerShape(256, 14, 2, 64, 384, 1e-5),
        LayerShape(256, 3, 3, 128, 512, 1e-5),
        LayerShape(256, 4, 1, 80, 256, 1e-5),
    ],
    ids=lambda s: f"{s.hidden_size}x{s.num_attention_heads}x{s.head_dim}",
)
def test_layers_agree(call: Call, shape: LayerShape, bias: bool) -> None:
    group = 64 if shape.num_attention_heads * shape.head_dim % 64 == 0 else 32
    weights = random_layer(shape, group, 1, bias, head_norms=bias)
    trees: Sequence[Sequence[int]] = ([-1, *range(20)], [-1, 0, 0, 1, 1, 2, -1, 6, 7], [-1])
    generator = torch.Generator().manual_seed(2)
    layer, cache = NativeLayer(shape, weights), NativeCache(shape.num_key_value_heads, shape.head_dim, 48)
    steps: list[int | Tensor | None] = []
    expected: list[Tensor] = []
    past = 0
    for parents in trees:
        step = make_pass(shape, past, 0, parents)
        hidden = torch.randn(len(parents), shape.hidden_size, generator=generator)
        positions = torch.tensor(step.native._buffers[1], dtype=torch.int32)
        steps += [torch.tensor(parents, dtype=torch.int32), positions, hidden.clone()]
        layer(hidden, step.native, cache)
        expected.append(hidden)
        past += len(parents)
    linears = [
        part for linear in (weights.qkv, weights.output, weights.gate_up, weights.down) for part in parts(linear)
    ]
    norms = (weights.input_norm, weights.post_attention_norm, weights.q_norm, weights.k_norm)
    numbers = (shape.hidden_size, shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim)
    rope = make_pass(shape, 48, 0, [-1]).native._buffers[2]
    found = call("layer", *linears, *norms, *numbers, shape.intermediate_size, 48, *rope, len(trees), *steps)
    for block, hidden in zip(found, expected, strict=True):
        theirs = floats(block, *hidden.shape)
        # Sums in another order may round an activation to the next of 127 steps.
        assert float((theirs - hidden).square().mean().sqrt()) < 2e-3 * float(hidden.square().mean().sqrt())


def test_the_likeliest_tokens_agree(call: Call) -> None:
    logits = 5 * torch.randn(3, 5003, generator=torch.Generator().manual_seed(3))
    logits[1, 7] = logits[1, 4999] = 40.0
    ids, logprobs = call("top", 3, 5003, 8, logits)
    expected_ids, expected = top_logprobs(logits, 8)
    assert ids == bytes_of(expected_ids)
    torch.testing.assert_close(floats(logprobs, 3, 8), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", [0, 1, 7, 31, 32, 100, 4099])
def test_checksums_agree(call: Call, length: int) -> None:
    data = torch.arange(length).to(torch.uint8)
    [found] = call("checksum", data)
    assert struct.unpack("<q", found)[0] == checksum(data.data_ptr(), length)
