"""Writing one part of a store, block by block, with its checksums."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels.checksum import checksum
from engine.offload.direct import BLOCK, Buffer, DirectFile
from engine.offload.store import Part


class PartWriter:
    """Writes one part from tensors that come in the order of the file, zeros between them."""

    def __init__(self, file: DirectFile, part: Part) -> None:
        self._file = file
        self._part = part
        self._block = Buffer(BLOCK)
        self._at = 0  # bytes of the part so far
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
        """Fill the part up; return the checksums of its blocks."""
        self._zeros(self._part.size)
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
        self._file.write(self._block.view[:size], self._part.offset + start)


def compare(file: DirectFile, part: Part, checksums: list[int]) -> None:
    """Read a part back before its source is deleted. Raises TreelineError if it is not what was written."""
    memory = Buffer(BLOCK)
    for block, expected in enumerate(checksums):
        size = min(BLOCK, part.size - block * BLOCK)
        file.read(memory.view[:size], part.offset + block * BLOCK)
        if checksum(memory.tensor.data_ptr(), size) != expected:
            raise TreelineError(f"{file.path}: the disk does not return what was written; nothing was deleted")
