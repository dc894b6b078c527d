"""Writing one piece of a store, block by block, with its checksums."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels.checksum import checksum
from engine.offload.direct import BLOCK, Buffer, DirectFile
from engine.offload.store import Part, Piece


class PieceWriter:
    """Writes one piece from tensors that come in the order of the file, zeros between them."""

    def __init__(self, file: DirectFile, piece: Piece) -> None:
        self._file = file
        self._piece = piece
        self._block = Buffer(BLOCK)
        self._at = 0  # bytes of the piece so far
        self._checksums: list[int] = []

    def put(self, offset: int, data: Tensor) -> None:
        """Append `data` at `offset`, at or behind the end so far."""
        self._zeros(offset)
        data = data.contiguous().view(torch.uint8).flatten()
        done = 0
        while done < len(data):
            start = self._at % BLOCK
            count = min(BLOCK - start, len(data) - done)
            self._block.tensor[start : start + count] = data[done : done + count]
            done += count
            self._advance(count)

    def finish(self) -> list[int]:
        """Fill the piece up; return the checksums of its blocks."""
        self._zeros(self._piece.size)
        if self._at % BLOCK:
            self._flush(self._at % BLOCK)
        return self._checksums

    def _zeros(self, end: int) -> None:
        while self._at < end:
            start = self._at % BLOCK
            count = min(BLOCK - start, end - self._at)
            self._block.tensor[start : start + count] = 0
            self._advance(count)

    def _advance(self, count: int) -> None:
        self._at += count
        if self._at % BLOCK == 0:
            self._flush(BLOCK)

    def _flush(self, size: int) -> None:
        self._checksums.append(checksum(self._block.tensor.data_ptr(), size))
        start = (len(self._checksums) - 1) * BLOCK
        self._file.write(self._block.view[:size], self._piece.offset + start)


def compare(file: DirectFile, part: Part, checksums: list[int]) -> None:
    """Read a part back before its source is deleted. Raises TreelineError if it is not what was written."""
    memory, expected = Buffer(BLOCK), iter(checksums)
    for piece in part:
        for block in range(piece.blocks):
            size = min(BLOCK, piece.size - block * BLOCK)
            file.read(memory.view[:size], piece.offset + block * BLOCK)
            if checksum(memory.tensor.data_ptr(), size) != next(expected):
                raise TreelineError(f"{file.path}: the disk does not return what was written; nothing was deleted")
