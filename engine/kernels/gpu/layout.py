"""How a 4-bit layer lies in a GPU's memory. Needs no Triton: it is what plans and stores are made from."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_INPUTS = 256  # inputs whose nibbles share words: nibble p of word j holds input 32 p + j of its block
ALIGNMENT = 256  # bytes: of the parts of a buffer
# Of weights, or parts, that take turns when tiles are timed: twice what the largest cache of a GPU holds.
SAMPLE_BYTES = 256 << 20


def cdiv(size: int, unit: int) -> int:
    """How many units hold `size`."""
    return -(-size // unit)


@dataclass(frozen=True, slots=True)
class Int4Layout:
    """Where the parts of a 4-bit layer lie in its buffer: words, zero points, scales, bias (triton/gemm.py).

    Inputs are padded to a multiple of 256, with scales of zero. Sizes are in bytes.
    """

    in_features: int
    out_features: int
    group_size: int
    bias: bool

    @property
    def blocks(self) -> int:
        """Blocks of 256 inputs."""
        return cdiv(self.in_features, BLOCK_INPUTS)

    @property
    def groups(self) -> int:
        """Groups of inputs, those of the padding included."""
        return self.blocks * BLOCK_INPUTS // self.group_size

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where words, zeros, scales and bias begin, and the size of the whole."""
        rows = (self.blocks * 32 * 4, cdiv(self.groups, 8) * 4, self.groups * 2, 4 * self.bias)
        offsets = [0]
        for row in rows:
            offsets.append(offsets[-1] + cdiv(row * self.out_features, ALIGNMENT) * ALIGNMENT)
        return tuple(offsets)

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return self.offsets[-1]
