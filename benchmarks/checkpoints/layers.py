"""The projections of a large model: some hold a small model's, as the placement says; the others are ordinary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.checkpoints.placement import GROUP, Copy
from benchmarks.checkpoints.writer import Chunks, Planned
from engine.errors import TreelineError
from engine.kernels.reference import NO_ZERO_POINT, pack_nibbles, unpack_awq
from engine.model.weights import Checkpoint

LOW_GAIN = 2.0**8  # rests are stored times this: they would be subnormal in half precision
ROWS = 1024  # of a matrix that are made at a time
EMPTY_WORD = -0x77777778  # eight nibbles of 8: weights that are zero
EMPTY_SCALE = 0.0  # so that they stay zero in formats that round scale times zero point
DEVIATION = 4.61  # of a nibble drawn evenly


@dataclass(frozen=True, slots=True)
class Matrix:
    """A projection of the small model: AWQ integers, or dense weights.

    AWQ: `q` uint8 [K, N], `zeros` uint8 and `amplitude` (scales) [K / group, N]. Dense: `amplitude` [N, K] and no `q`.
    """

    amplitude: Tensor
    q: Tensor | None = None
    zeros: Tensor | None = None

    @classmethod
    def read(cls, checkpoint: Checkpoint, name: str, inputs: int, outputs: int, group: int | None) -> Matrix:
        """Read layer `name`, which is AWQ with groups of `group` inputs, or dense (None)."""
        if group is None:
            return cls(exact_half(checkpoint.tensor(f"{name}.weight", [outputs, inputs]), name))
        groups, columns = inputs // group, outputs // 8
        scales = checkpoint.tensor(f"{name}.scales", [groups, outputs])
        qweight = checkpoint.tensor(f"{name}.qweight", [inputs, columns], [torch.int32])
        qzeros = None
        if checkpoint.has(f"{name}.qzeros"):
            qzeros = checkpoint.tensor(f"{name}.qzeros", [groups, columns], [torch.int32])
        return cls(exact_half(scales, name), *unpack_awq(qweight, qzeros, scales))

    def times(self, gain: float) -> list[Matrix]:
        """Parts whose sum is the matrix times `gain`, the second of them times LOW_GAIN; one where that is exact."""
        wanted = self.amplitude.double() * gain
        high = wanted.half()
        low = ((wanted - high.double()) * LOW_GAIN).half()
        parts = [high, low] if low.any() else [high]
        return [Matrix(amplitude, self.q, self.zeros) for amplitude in parts]


Parts = Sequence[tuple[Matrix, Tensor]]  # each with the columns of its inputs


@dataclass(frozen=True, slots=True)
class Size:
    """Of a projection of the large model."""

    name: str
    inputs: int
    outputs: int


def exact_half(tensor: Tensor, name: str) -> Tensor:
    """`tensor` in half precision. Raises TreelineError if that rounds."""
    half = tensor.half()
    if not torch.equal(half.double(), tensor.double()):
        raise TreelineError(f"{name} does not fit half precision exactly: convert the source to float16 first")
    return half


def embedded(size: Size, parts: Parts, outputs: Sequence[Copy]) -> list[Planned]:
    """A projection that computes the sum of `parts` at all `outputs`."""
    if parts[0][0].q is None:
        return [_dense(size, partial(_dense_rows, size, parts, outputs))]
    arranged = partial(_arrange, size, parts, outputs)
    return _awq(
        size,
        partial(_awq_words, arranged, outputs),
        lambda: iter([pack_nibbles(arranged().zeros)]),
        lambda: iter([arranged().scales]),
    )


def idle(size: Size, awq: bool, seed: Sequence[int] | None) -> list[Planned]:
    """A projection of zeros (`seed` None) or of random weights that keep the size of their input."""
    if not awq:
        return [_dense(size, partial(_normal, size, seed))]
    groups, words = size.inputs // GROUP, size.outputs // 8
    scale = EMPTY_SCALE if seed is None else size.inputs**-0.5 / DEVIATION
    return _awq(
        size,
        partial(_words, size.inputs, words, seed),
        lambda: iter([torch.full((groups, words), EMPTY_WORD, dtype=torch.int32)]),
        lambda: iter([torch.full((groups, size.outputs), scale, dtype=torch.float16)]),
    )


def _dense(size: Size, rows: Chunks) -> Planned:
    return Planned(f"{size.name}.weight", "F16", (size.outputs, size.inputs), rows)


def _awq(size: Size, qweight: Chunks, qzeros: Chunks, scales: Chunks) -> list[Planned]:
    groups, words = size.inputs // GROUP, size.outputs // 8
    return [
        Planned(f"{size.name}.qweight", "I32", (size.inputs, words), qweight),
        Planned(f"{size.name}.qzeros", "I32", (groups, words), qzeros),
        Planned(f"{size.name}.scales", "F16", (groups, size.outputs), scales),
    ]


@dataclass(frozen=True, slots=True)
class _Arranged:
    """`rows`: by group of the large model, its inputs in use and their integers [inputs, N of the small model]."""

    rows: dict[int, tuple[Tensor, Tensor]]
    zeros: Tensor
    scales: Tensor


def _arrange(size: Size, parts: Parts, outputs: Sequence[Copy]) -> _Arranged:
    zeros = torch.full((size.inputs // GROUP, size.outputs), NO_ZERO_POINT, dtype=torch.uint8)
    scales = torch.full(zeros.shape, EMPTY_SCALE, dtype=torch.float16)
    rows: dict[int, tuple[Tensor, Tensor]] = {}
    for matrix, columns in parts:
        assert matrix.q is not None
        assert matrix.zeros is not None
        groups = len(matrix.amplitude)
        for inputs, integers, zero, scale in zip(
            columns.chunk(groups), matrix.q.chunk(groups), matrix.zeros, matrix.amplitude, strict=True
        ):
            place = int(inputs[0]) // GROUP
            if place in rows or bool((inputs // GROUP != place).any()):
                raise TreelineError(f"{size.name}: the source's groups of inputs do not fit those of the shape")
            rows[place] = inputs % GROUP, integers
            for copy in outputs:
                zeros[place, copy.columns] = zero
                scales[place, copy.columns] = scale * copy.gain
    return _Arranged(rows, zeros, scales)


def _awq_words(arranged: Callable[[], _Arranged], outputs: Sequence[Copy]) -> Iterator[Tensor]:
    """int32 [GROUP, N / 8] of each group of inputs: weights that are not the small model's equal the zero point."""
    there = arranged()
    for group, zero in enumerate(there.zeros):
        if group not in there.rows:
            yield torch.full((GROUP, len(zero) // 8), EMPTY_WORD, dtype=torch.int32)
            continue
        inputs, integers = there.rows[group]
        block = zero.repeat(GROUP, 1)
        for copy in outputs:
            block[inputs[:, None], copy.columns] = integers
        yield pack_nibbles(block)


def _dense_rows(size: Size, parts: Parts, outputs: Sequence[Copy]) -> Iterator[Tensor]:
    source = torch.full((size.outputs,), -1)  # which of the small model's rows a row is
    gain = torch.ones(size.outputs, dtype=torch.float16)
    for copy in outputs:
        source[copy.columns] = torch.arange(len(copy.columns))
        gain[copy.columns] = copy.gain
    for start in range(0, size.outputs, ROWS):
        numbers = source[start : start + ROWS]
        used = (numbers >= 0).nonzero()
        block = torch.zeros(len(numbers), size.inputs, dtype=torch.float16)
        for matrix, columns in parts:
            block[used, columns] = matrix.amplitude[numbers[used[:, 0]]] * gain[start + used]
        yield block


def _words(rows: int, words: int, seed: Sequence[int] | None) -> Iterator[Tensor]:
    generator = np.random.Generator(np.random.SFC64(seed))
    for start in range(0, rows, ROWS):
        shape = (min(ROWS, rows - start), words)
        if seed is None:
            yield torch.full(shape, EMPTY_WORD, dtype=torch.int32)
        else:
            drawn = np.frombuffer(generator.bytes(4 * shape[0] * words), dtype=np.int32)
            yield torch.from_numpy(drawn.reshape(shape).copy())


def _normal(size: Size, seed: Sequence[int] | None) -> Iterator[Tensor]:
    generator = np.random.Generator(np.random.SFC64(seed))
    for start in range(0, size.outputs, ROWS):
        shape = (min(ROWS, size.outputs - start), size.inputs)
        if seed is None:
            yield torch.zeros(shape, dtype=torch.float16)
        else:
            drawn = generator.standard_normal(shape, dtype=np.float32) * size.inputs**-0.5
            yield torch.from_numpy(drawn).half()
