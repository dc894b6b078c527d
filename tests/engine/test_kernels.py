"""Linear layers of the CPU path against the plain torch reference and against torch's own int4 product."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from engine.errors import TreelineError
from engine.kernels import native, reference
from engine.kernels.cpu import PackedLinear, available, top_logprobs, use_threads
from engine.kernels.weights import DenseWeights, NativeWeights, Shape, TorchInt4Weights
from tests.engine.kernel_layers import random_awq

# Weights are exact. An activation group of g values is rounded to 127 steps of its largest: with Gaussian inputs the
# largest of 32..128 is 2.1 to 2.7 sigma, a step 1/127 of that, uniform rounding 1/sqrt(12) of a step: 0.5% to 0.65% of
# the output's rms. 1% leaves room for chance with few rows.
NATIVE_TOLERANCE = 0.01
BFLOAT16_TOLERANCE = 0.01  # torch's product: 8 bits of mantissa in inputs, scales and outputs

ROOT = Path(__file__).parents[2]
ROWS = (1, 2, 3, 7, 8, 9, 33)

needs_native = pytest.mark.skipif(not available(), reason="no C++ compiler or CPU without AVX2")


@pytest.fixture(params=[1, 2, 3])
def _threads(request: pytest.FixtureRequest) -> Generator[None]:
    use_threads(request.param)
    yield
    use_threads(None)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def test_nibbles_round_trip_and_known_word() -> None:
    values = torch.randint(0, 16, (5, 24))
    assert torch.equal(reference.unpack_nibbles(reference.pack_nibbles(values)).long(), values)
    # Columns 0..7 hold 0..7: nibbles, lowest first, are columns 0,2,4,6,1,3,5,7.
    assert reference.pack_nibbles(torch.arange(8)[None]).item() == 0x75316420


def test_dequantize_by_hand() -> None:
    q = torch.tensor([[3, 0, 0, 0, 0, 0, 0, 15]]).repeat(32, 1)
    zeros = torch.tensor([[5, 0, 0, 0, 0, 0, 0, 1]])
    scales = torch.tensor([[0.5, 1, 1, 1, 1, 1, 1, 0.25]]).half()
    weight = reference.dequantize_awq(reference.pack_nibbles(q), reference.pack_nibbles(zeros), scales)
    assert weight.shape == (8, 32)
    assert weight[0].eq(-1.0).all()
    assert weight[7].eq(3.5).all()
    symmetric = reference.dequantize_awq(reference.pack_nibbles(q), None, scales)
    assert symmetric[0].eq(-2.5).all()


@needs_native
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("inputs", "outputs"), [(128, 8), (256, 200), (384, 1032), (1024, 512)])
def test_int4_agrees_with_reference_and_rows_are_independent(inputs: int, outputs: int, group: int, bias: bool) -> None:
    awq = random_awq(inputs, outputs, group)
    vector = torch.randn(outputs) if bias else None
    layer = PackedLinear.from_awq(awq.qweight, awq.qzeros, awq.scales, group, vector)
    weight = reference.dequantize_awq(awq.qweight, awq.qzeros, awq.scales)
    assert isinstance(layer.weights, NativeWeights)
    assert torch.equal(layer.dequantize(), weight)
    rows = torch.randn(max(ROWS), inputs)
    alone = torch.cat([layer(row[None]) for row in rows])
    assert relative_error(alone, reference.linear(rows, weight, vector)) < NATIVE_TOLERANCE
    for count in ROWS:
        assert torch.equal(layer(rows[:count]), alone[:count])
        assert torch.equal(layer(rows[-count:]), alone[-count:])


@needs_native
def test_int4_product_is_exact_for_integer_activations() -> None:
    """Activations that int8 holds exactly leave only the order of float additions between the kernel and float64."""
    awq = random_awq(256, 72, 64)
    layer = PackedLinear.from_awq(awq.qweight, awq.qzeros, awq.scales, 64)
    x = torch.randint(-127, 128, (9, 256)).float()
    x[:, ::64] = 127  # every group's largest: the scale is exactly 1
    exact = x.double() @ layer.dequantize().double().T
    assert (layer(x) - exact).abs().max() < 1e-5 * exact.abs().max()


@needs_native
def test_extreme_values_do_not_overflow() -> None:
    """All products at their largest, the case in which 16-bit sums would saturate."""
    q, zeros, scales = torch.full((128, 16), 15), torch.zeros(1, 16).long(), torch.ones(1, 16).half()
    layer = PackedLinear.from_awq(reference.pack_nibbles(q), reference.pack_nibbles(zeros), scales, 128)
    for sign in (1.0, -1.0):
        assert torch.allclose(layer(torch.full((3, 128), sign * 127)), torch.full((3, 16), sign * 127 * 15 * 128))
    dense = PackedLinear.from_dense(torch.full((16, 128), -1.0), group_size=128)
    assert torch.allclose(dense(torch.full((2, 128), -5.0)), torch.full((2, 16), 640.0))
    assert not dense(torch.zeros(2, 128)).any()


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs", "group"), [(96, 50, 32), (256, 1001, 64), (512, 64, 128)])
def test_8_bit_agrees_with_reference(inputs: int, outputs: int, group: int, dtype: torch.dtype) -> None:
    weight = torch.randn(outputs, inputs).to(dtype)
    bias = torch.randn(outputs)
    layer = PackedLinear.from_dense(weight, bias, group_size=group)
    stored = layer.dequantize()
    largest = weight.float().unflatten(1, (-1, group)).abs().amax(-1, keepdim=True)
    steps = (stored.unflatten(1, (-1, group)) - weight.float().unflatten(1, (-1, group))).abs() / (largest / 127)
    assert steps.max() < 0.501, "weights are rounded to the nearest of 255 levels"
    rows = torch.randn(33, inputs)
    alone = torch.cat([layer(row[None]) for row in rows])
    assert relative_error(alone, reference.linear(rows, stored, bias)) < NATIVE_TOLERANCE
    for count in ROWS:
        assert torch.equal(layer(rows[:count]), alone[:count])


@needs_native
def test_norm_inside_the_product() -> None:
    layer = PackedLinear.from_dense(torch.randn(72, 128))
    x, weight = torch.randn(9, 128) * 3, torch.rand(128)
    expected = reference.linear(reference.rms_norm(x, weight, 1e-5), layer.dequantize())
    assert relative_error(layer(x, norm=weight, eps=1e-5), expected) < NATIVE_TOLERANCE


@pytest.mark.parametrize("kernels", ["native", "torch", "reference"])
@pytest.mark.parametrize("sizes", [(64, 32, 32), (8, 24, 8), (24, 40)])
def test_concat_equals_the_parts(sizes: tuple[int, ...], kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels == "native" and not available():
        pytest.skip("no native kernels")
    monkeypatch.setenv("TREELINE_KERNELS", kernels)
    parts: list[PackedLinear] = []
    for i, size in enumerate(sizes):
        awq = random_awq(128, size, 64, i)
        bias = None if i == 1 else torch.randn(size)
        parts.append(PackedLinear.from_awq(awq.qweight, awq.qzeros, awq.scales, 64, bias))
    whole = PackedLinear.concat(parts)
    x = torch.randn(3, 128)
    assert torch.equal(whole.dequantize(), torch.cat([part.dequantize() for part in parts]))
    assert torch.allclose(whole(x), torch.cat([part(x) for part in parts], 1), atol=1e-5)
    dense = [PackedLinear.from_dense(torch.randn(size, 96), group_size=32) for size in sizes]
    assert torch.equal(PackedLinear.concat(dense).dequantize(), torch.cat([part.dequantize() for part in dense]))


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("symmetric", [False, True])
def test_torch_fallback_agrees_with_reference(group: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREELINE_KERNELS", "torch")
    awq = random_awq(256, 96, group)
    zeros = None if symmetric else awq.qzeros
    layer = PackedLinear.from_awq(awq.qweight, zeros, awq.scales, group, torch.randn(96))
    assert isinstance(layer.weights, TorchInt4Weights)
    weight = reference.dequantize_awq(awq.qweight, zeros, awq.scales)
    assert relative_error(layer.dequantize(), weight) < BFLOAT16_TOLERANCE
    x = torch.randn(9, 256)
    assert relative_error(layer(x), reference.linear(x, weight, layer.bias)) < BFLOAT16_TOLERANCE
    norm = torch.rand(256)
    expected = reference.linear(reference.rms_norm(x, norm, 1e-5), weight, layer.bias)
    assert relative_error(layer(x, norm=norm, eps=1e-5), expected) < BFLOAT16_TOLERANCE


def test_torch_fallback_takes_shapes_that_the_int4_product_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREELINE_KERNELS", "torch")
    awq = random_awq(64, 24, 32)
    layer = PackedLinear.from_awq(awq.qweight, awq.qzeros, awq.scales, 32)
    assert isinstance(layer.weights, DenseWeights)
    x = torch.randn(3, 64)
    assert torch.allclose(layer(x), reference.int4_linear(x, awq.qweight, awq.qzeros, awq.scales))


def test_bad_tensors_are_errors_that_name_them() -> None:
    awq = random_awq(256, 64, 64)
    with pytest.raises(TreelineError, match="group size 96"):
        PackedLinear.from_awq(awq.qweight, awq.qzeros, awq.scales, 96)
    with pytest.raises(TreelineError, match="AWQ scales"):
        PackedLinear.from_awq(awq.qweight, awq.qzeros, awq.scales, 128)
    with pytest.raises(TreelineError, match="AWQ qzeros"):
        PackedLinear.from_awq(awq.qweight, awq.qzeros[:2], awq.scales, 64)
    with pytest.raises(TreelineError, match="50 inputs"):
        PackedLinear.from_dense(torch.randn(4, 50))
    with pytest.raises(TreelineError, match="cannot join"):
        PackedLinear.concat([PackedLinear.from_dense(torch.randn(8, n)) for n in (32, 64)])


@needs_native
def test_blocks_may_lie_in_any_aligned_buffer() -> None:
    """A store maps one file per layer and makes layers of views into it."""
    layer = PackedLinear.from_dense(torch.randn(40, 64))
    assert isinstance(layer.weights, NativeWeights)
    blocks = layer.weights.blocks
    buffer = torch.zeros(len(blocks) + 128, dtype=torch.uint8)
    buffer[64 : 64 + len(blocks)] = blocks
    view = NativeWeights(layer.shape, buffer[64 : 64 + len(blocks)])
    x = torch.randn(2, 64)
    assert torch.equal(PackedLinear(Shape(64, 40, 64, 8), view)(x), layer(x))


@needs_native
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("rows", "vocabulary", "k"), [(1, 7, 7), (1, 16384, 32), (3, 50001, 5), (9, 4097, 1)])
def test_top_logprobs(rows: int, vocabulary: int, k: int) -> None:
    logits = torch.randn(rows, vocabulary) * 4
    ids, logprobs = top_logprobs(logits, k)
    expected_ids, expected = reference.top_logprobs(logits, k)
    assert torch.equal(ids, expected_ids)
    assert torch.allclose(logprobs, expected, atol=1e-5)
    use_threads(1)
    again = top_logprobs(logits, k)
    assert torch.equal(again[0], ids)
    assert torch.equal(again[1], logprobs)


@needs_native
def test_top_logprobs_ties_and_masked_tokens() -> None:
    logits = torch.randint(0, 4, (3, 20000)).float()
    assert torch.equal(top_logprobs(logits, 20)[0], reference.top_logprobs(logits, 20)[0])
    masked = torch.full((1, 20000), float("-inf"))
    masked[0, [9, 17000]] = torch.tensor([1.0, 2.0])
    ids, logprobs = top_logprobs(masked, 4)
    assert ids[0, :2].tolist() == [17000, 9]
    assert torch.allclose(logprobs[0, :2], torch.tensor([2.0, 1.0]).log_softmax(0))
    assert logprobs[0, 2:].eq(float("-inf")).all()


def test_the_environment_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREELINE_KERNELS", "reference")
    assert native.backend() == "reference"
    assert isinstance(PackedLinear.from_dense(torch.randn(8, 32)).weights, DenseWeights)
    monkeypatch.setenv("TREELINE_KERNELS", "fast")
    with pytest.raises(TreelineError, match="TREELINE_KERNELS is 'fast'"):
        native.backend()


@needs_native
def test_threads_of_the_caller_may_multiply_at_once() -> None:
    """One of them has the helper threads, the others work alone; nobody waits or gets another's result."""
    layer = PackedLinear.from_dense(torch.randn(1024, 512))
    inputs = [torch.randn(1 + i % 9, 512) for i in range(64)]
    expected = [layer(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for actual, wanted in zip(pool.map(layer, inputs), expected, strict=True):
                assert torch.equal(actual, wanted)


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_helpers_of_its_own() -> None:
    code = """
import os, torch
from engine.kernels.cpu import PackedLinear
torch.set_num_threads(2)
layer, x = PackedLinear.from_dense(torch.randn(1024, 512)), torch.randn(9, 512)
expected = layer(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(layer(x), expected) else 1)
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True, cwd=ROOT
    )
    assert done.stdout == "0\n"
