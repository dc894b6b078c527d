"""Linear layers on a GPU: 4-bit as AWQ quantises them, or dense; few rows by our own products, many by torch's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import TreelineError
from engine.kernels import reference
from engine.kernels.gpu.layout import BLOCK_INPUTS, Int4Layout, cdiv
from engine.kernels.gpu.product import SMALL_ROWS, multiply_dense, multiply_int4, tiles
from engine.kernels.gpu.tune import Product
from engine.kernels.triton.gemm import int4_expand

GROUP_SIZES = (32, 64, 128)
SLAB = 16  # blocks of 256 inputs that are packed at a time
SCRATCH_BYTES = 32 << 20  # of expanded weights, so that they stay in the GPU's cache until they are used


class Int4Linear:
    """y = x W^T + bias for W [out, in] of 4 bits, held in one flat buffer as `Int4Layout` says; immutable.

    With up to 64 rows, a row's result is the same bits whatever rows are beside it, as long as Triton compiles all
    tiles to the same tensor-core instruction. More rows are multiplied by weights expanded to `dtype`, which rounds
    differently.
    """

    def __init__(self, layout: Int4Layout, buffer: Tensor, dtype: torch.dtype) -> None:
        """`buffer` uint8 [layout.size], where the kernels run; `dtype` of the activations."""
        self.layout, self.buffer, self.dtype = layout, buffer, dtype
        words, zeros, scales, bias = [buffer[begin:end] for begin, end in pairwise(layout.offsets)]
        n, groups = layout.out_features, layout.groups
        self.words = _view(words, torch.int32, layout.blocks * 32, n)
        self.zeros = _view(zeros, torch.int32, cdiv(groups, 8), n)
        self.scales = _view(scales, torch.int32, groups // 2, n)
        self.bias = _view(bias, torch.float32, 1, n)[0] if layout.bias else None

    @classmethod
    def from_awq(
        cls,
        qweight: Tensor,
        qzeros: Tensor | None,
        scales: Tensor,
        bias: Tensor | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Int4Linear:
        """From AutoAWQ's "gemm" tensors (reference.unpack_awq has the layout), packed on `device`.

        Raises TreelineError for a group size that no kernel knows.
        """
        group_size = qweight.shape[0] // max(1, scales.shape[0])
        if group_size not in GROUP_SIZES or group_size * scales.shape[0] != qweight.shape[0]:
            raise TreelineError(
                f"AWQ layer of {qweight.shape[0]} inputs in {scales.shape[0]} groups: need 32, 64 or 128"
            )
        layout = Int4Layout(qweight.shape[0], scales.shape[1], group_size, bias is not None)
        packed = cls(layout, torch.zeros(layout.size, dtype=torch.uint8, device=device), dtype)
        step = SLAB * BLOCK_INPUTS
        for begin in range(0, layout.in_features, step):
            q = reference.unpack_nibbles(qweight[begin : begin + step].to(device))
            _pack(q, packed.words[begin // 8 :], 32)
        zeros = torch.full(tuple(scales.shape), reference.NO_ZERO_POINT, dtype=torch.uint8, device=device)
        _pack(zeros if qzeros is None else reference.unpack_nibbles(qzeros.to(device)), packed.zeros, 1)
        padded = functional.pad(scales.to(device, torch.float16), (0, 0, 0, layout.groups - len(scales)))
        pairs = padded.view(-1, 2, layout.out_features).transpose(1, 2).contiguous()
        packed.scales.copy_(pairs.view(torch.int32)[..., 0])
        if packed.bias is not None and bias is not None:
            packed.bias.copy_(bias)
        return packed

    @classmethod
    def concat(cls, parts: Sequence[Int4Linear]) -> Int4Linear:
        """One layer whose outputs are those of `parts` one after another; they have inputs and group size in common."""
        first = parts[0].layout
        bias = any(part.layout.bias for part in parts)
        outputs = sum(part.layout.out_features for part in parts)
        layout = Int4Layout(first.in_features, outputs, first.group_size, bias)
        buffer = torch.zeros(layout.size, dtype=torch.uint8, device=parts[0].buffer.device)
        joined = cls(layout, buffer, parts[0].dtype)
        torch.cat([part.words for part in parts], 1, out=joined.words)
        torch.cat([part.zeros for part in parts], 1, out=joined.zeros)
        torch.cat([part.scales for part in parts], 1, out=joined.scales)
        if joined.bias is not None:
            torch.cat([_bias(part.bias, part.layout.out_features, joined.bias) for part in parts], out=joined.bias)
        return joined

    def parts(self, x: Tensor) -> Tensor:
        """Sums [splits, M, N] that add up to x W^T, without bias, from x [M, K].

        float32 for up to 64 rows, otherwise one sum of the type of x.
        """
        layout = self.layout
        if len(x) > SMALL_ROWS:
            return self._expanded(x)[None]
        product = Product(layout.out_features, layout.in_features, layout.group_size, x.dtype, x.device, len(x) > 16)
        return multiply_int4(x, (self.words, self.zeros, self.scales), product, tiles(product))

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T + bias: float32 [M, N]."""
        return _total(self.parts(x), self.bias)

    def dequantize(self, begin: int = 0, width: int | None = None) -> Tensor:
        """Return columns of W^T: [K, width] in the activations' type."""
        layout = self.layout
        width = layout.out_features - begin if width is None else width
        out = torch.empty(layout.in_features, width, dtype=self.dtype, device=self.buffer.device)
        int4_expand[(layout.blocks, cdiv(width, 64))](
            self.words,
            self.zeros,
            self.scales,
            out,
            layout.out_features,
            layout.in_features,
            begin,
            width,
            GROUP=layout.group_size,
            TILE_N=64,
        )
        return out

    def dense(self) -> DenseLinear:
        """Return the same layer with dense weights."""
        return DenseLinear(self.dequantize().T, self.bias)

    def _expanded(self, x: Tensor) -> Tensor:
        layout = self.layout
        out = torch.empty(len(x), layout.out_features, dtype=x.dtype, device=x.device)
        step = max(64, SCRATCH_BYTES // (layout.in_features * x.element_size()) // 64 * 64)
        for begin in range(0, layout.out_features, step):
            width = min(step, layout.out_features - begin)
            out[:, begin : begin + width] = x @ self.dequantize(begin, width)
        return out


class DenseLinear:
    """y = x W^T + bias for a dense W; immutable. Rows are independent of each other as in Int4Linear."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` [out, in] float16 or bfloat16, where the kernels run; `bias` [out] or None."""
        self.weight, self.bias, self.dtype = weight.contiguous(), bias, weight.dtype

    @classmethod
    def concat(cls, parts: Sequence[DenseLinear]) -> DenseLinear:
        """One layer whose outputs are those of `parts` one after another."""
        weight = torch.cat([part.weight for part in parts])
        if all(part.bias is None for part in parts):
            return cls(weight)
        return cls(weight, torch.cat([_bias(part.bias, len(part.weight), weight).float() for part in parts]))

    def parts(self, x: Tensor) -> Tensor:
        """See Int4Linear."""
        if len(x) > SMALL_ROWS:
            return functional.linear(x, self.weight)[None]
        n, k = self.weight.shape
        product = Product(n, k, 0, x.dtype, x.device, len(x) > 16)
        return multiply_dense(x, self.weight, product, tiles(product))

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T + bias: float32 [M, N]."""
        return _total(self.parts(x), self.bias)


def join(parts: Sequence[Int4Linear | DenseLinear]) -> Int4Linear | DenseLinear:
    """One layer whose outputs are those of `parts` one after another: of 4 bits where all are, alike; else dense."""
    if len(parts) == 1:
        return parts[0]
    packed = [part for part in parts if isinstance(part, Int4Linear)]
    if len(packed) == len(parts) and len({part.layout.group_size for part in packed}) == 1:
        return Int4Linear.concat(packed)
    return DenseLinear.concat([part if isinstance(part, DenseLinear) else part.dense() for part in parts])


def _view(piece: Tensor, dtype: torch.dtype, rows: int, columns: int) -> Tensor:
    return piece.view(dtype)[: rows * columns].view(rows, columns)


def _pack(values: Tensor, words: Tensor, lanes: int) -> None:
    """Put values 0..15 [R, N] into words: nibble p of row `lanes` j + i is row 8 lanes j + lanes p + i."""
    rows, columns = values.shape
    count = cdiv(rows, 8 * lanes)
    padded = functional.pad(values, (0, 0, 0, count * 8 * lanes - rows)).view(count, 8, lanes, columns)
    packed = torch.zeros(count, lanes, columns, dtype=torch.int32, device=values.device)
    for plane in range(8):
        packed |= padded[:, plane].to(torch.int32) << 4 * plane
    words[: count * lanes] = packed.view(-1, columns)


def _bias(bias: Tensor | None, outputs: int, like: Tensor) -> Tensor:
    return torch.zeros(outputs, device=like.device) if bias is None else bias


def _total(parts: Tensor, bias: Tensor | None) -> Tensor:
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part
    return total if bias is None else total + bias
