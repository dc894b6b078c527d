"""4-bit and dense layers in the GPU's kernels against the reference."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from engine.errors import TreelineError
from engine.kernels import reference
from engine.kernels.cuda import DenseLinear, Int4Linear, join
from engine.kernels.gpu import layout, product, tune
from engine.offload.demand import gpu_demand
from engine.offload.shapes import find_shape
from tests.engine.gpu import DEVICE, ROUNDING, TYPES, error, on_a_gpu, random_awq

pytestmark = pytest.mark.gpu

# inputs, outputs, group, rows: padded inputs, outputs that fill no tile, every tile of rows
SHAPES = [
    (256, 64, 128, 1),
    (512, 128, 64, 3),
    (320, 72, 64, 16),
    (96, 40, 32, 17),
    (1152, 200, 128, 40),
    (256, 64, 32, 64),
    (512, 136, 128, 70),
]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("zero_points", [True, False])
@pytest.mark.parametrize(("inputs", "outputs", "group", "rows"), SHAPES)
def test_a_4_bit_layer_is_exact_but_for_the_order_of_sums(inputs, outputs, group, rows, zero_points, dtype):
    awq = random_awq(inputs, outputs, group, seed=rows)
    qzeros = awq.qzeros if zero_points else None
    bias = torch.randn(outputs)
    linear = Int4Linear.from_awq(awq.qweight, qzeros, awq.scales, bias, DEVICE, dtype)
    x = torch.randn(rows, inputs).to(dtype)
    expected = reference.int4_linear(x, awq.qweight, qzeros, awq.scales, bias)
    few = rows <= 64
    assert error(linear(x.to(DEVICE)), expected) < (1e-5 if few else ROUNDING[dtype])


@pytest.mark.parametrize("dtype", TYPES)
def test_expanding_gives_the_checkpoints_weights(dtype):
    awq = random_awq(320, 72, 32, seed=0)
    linear = Int4Linear.from_awq(awq.qweight, awq.qzeros, awq.scales, None, DEVICE, dtype)
    expected = reference.dequantize_awq(awq.qweight, awq.qzeros, awq.scales).T
    assert torch.equal(linear.dequantize().cpu(), expected.to(dtype))
    assert torch.equal(linear.dequantize(8, 24).cpu(), expected[:, 8:32].to(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("inputs", "outputs", "rows"), [(256, 64, 1), (320, 72, 20), (96, 40, 64), (64, 24, 65)])
def test_a_dense_layer(inputs, outputs, rows, dtype):
    weight, bias = (torch.randn(outputs, inputs) * inputs**-0.5).to(dtype), torch.randn(outputs)
    x = torch.randn(rows, inputs).to(dtype)
    linear = DenseLinear(weight.to(DEVICE), bias.to(DEVICE))
    few = rows <= 64
    assert error(linear(x.to(DEVICE)), reference.linear(x, weight, bias)) < (1e-5 if few else ROUNDING[dtype])


def test_sums_split_over_the_inputs_add_up(monkeypatch):
    monkeypatch.setattr(tune, "PROGRAMS_PER_PROCESSOR", 5)
    monkeypatch.setattr(tune, "processors", lambda device: 1)
    awq = random_awq(1152, 64, 128, seed=1)
    linear = Int4Linear.from_awq(awq.qweight, awq.qzeros, awq.scales, None, DEVICE, torch.float16)
    dense = DenseLinear(linear.dequantize().T)
    x = torch.randn(5, 1152).half()
    expected = reference.int4_linear(x, awq.qweight, awq.qzeros, awq.scales)
    assert linear.parts(x.to(DEVICE)).shape == (5, 5, 64)
    assert error(linear(x.to(DEVICE)), expected) < 1e-5
    assert error(dense(x.to(DEVICE)), reference.linear(x, dense.weight.cpu())) < 1e-5


@on_a_gpu  # numpy, which interprets products, sums in another order for other numbers of rows
def test_a_rows_result_does_not_depend_on_the_other_rows():
    awq = random_awq(512, 64, 128, seed=2)
    linear = Int4Linear.from_awq(awq.qweight, awq.qzeros, awq.scales, None, DEVICE, torch.float16)
    dense = DenseLinear(linear.dequantize().T)
    x = torch.randn(33, 512, device=DEVICE).half()
    for layer in (linear, dense):
        together = layer(x)
        assert all(torch.equal(layer(x[row : row + 1])[0], together[row]) for row in (0, 7, 32))


def test_weights_to_time_tiles_with_take_no_more_than_was_planned(monkeypatch):
    made = []

    def randint(*arguments, make=torch.randint, **options):
        made.append(make(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(product.torch, "randint", randint)
    product._sample(tune.Product(64, 4096, 128, torch.float16, DEVICE, tall=False), torch.Generator(DEVICE))
    assert made[0].nbytes == 64 * 4096 // 2
    demand = dict(gpu_demand(find_shape("codedrafter-500m"), None).fixed)
    assert demand["activations"] == layout.SAMPLE_BYTES


def test_weights_to_time_tiles_with_come_from_numbers_of_their_own():
    """torch's common ones are another thread's while it records a graph."""
    common = torch.cuda.get_rng_state if DEVICE.type == "cuda" else torch.get_rng_state
    before = common()
    for group in (0, 128):
        timed = tune.Product(72, 300, group, torch.float16, DEVICE, tall=False)
        run = product._sample(timed, torch.Generator(DEVICE))
        parts = run(torch.ones(1, 300, dtype=torch.float16, device=DEVICE), tune.default_tiles(timed))
        assert parts.shape[1:] == (1, 72)
        assert 0 < parts.std() < 100
    assert torch.equal(common(), before)


@pytest.mark.parametrize("alike", [True, False])
def test_joined_layers_give_the_outputs_of_all(alike):
    parts, expected = [], []
    x = torch.randn(3, 256).half()
    for seed, outputs in enumerate((40, 8, 72)):
        awq = random_awq(256, outputs, 64 if alike or seed else 32, seed)
        bias = torch.randn(outputs) if seed == 1 else None
        parts.append(Int4Linear.from_awq(awq.qweight, awq.qzeros, awq.scales, bias, DEVICE, torch.float16))
        expected.append(reference.int4_linear(x, awq.qweight, awq.qzeros, awq.scales, bias))
    joined = join(parts)
    assert isinstance(joined, Int4Linear) == alike
    assert error(joined(x.to(DEVICE)), torch.cat(expected, 1)) < (1e-5 if alike else ROUNDING[torch.float16])


def test_a_layer_is_its_bytes():
    awq = random_awq(320, 72, 64, seed=3)
    linear = Int4Linear.from_awq(awq.qweight, awq.qzeros, awq.scales, torch.randn(72), DEVICE, torch.float16)
    assert linear.buffer.dtype == torch.uint8
    assert linear.buffer.shape == (linear.layout.size,)
    again = Int4Linear(linear.layout, linear.buffer.clone(), torch.float16)
    x = torch.randn(2, 320, device=DEVICE).half()
    assert torch.equal(again(x), linear(x))


def test_groups_that_no_kernel_knows_are_refused():
    awq = random_awq(256, 64, 16, seed=0)
    with pytest.raises(TreelineError, match="16 groups: need 32, 64 or 128"):
        Int4Linear.from_awq(awq.qweight, awq.qzeros, awq.scales, None, DEVICE, torch.float16)
