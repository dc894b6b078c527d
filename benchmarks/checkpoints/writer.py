"""Writes tensors that are made while they are written as a sharded checkpoint.

The format is documented at https://huggingface.co/docs/safetensors: a 64-bit length, a JSON header, the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SHARD_BYTES = 4_900_000_000
SIZES = {"F16": 2, "BF16": 2, "I32": 4}
Progress = Callable[[int], None]  # bytes written
Chunks = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor to be: `chunks` makes its rows, some at a time. `dtype` in safetensors' words: F16, BF16 or I32."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Chunks

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * SIZES[self.dtype]


def write_sharded(tensors: Sequence[Planned], directory: Path, progress: Progress, limit: int = SHARD_BYTES) -> None:
    """Write `tensors` in shards of at most `limit` bytes (unless one tensor is larger) and their index."""
    shards = _shards(tensors, limit)
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(shard, directory / name, progress)
        where |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": sum(tensor.bytes for tensor in tensors)}, "weight_map": where}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Sequence[Planned], limit: int) -> list[list[Planned]]:
    shards: list[list[Planned]] = []
    room = 0
    for tensor in tensors:
        if not shards or tensor.bytes > room:
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= tensor.bytes
    return shards


def _write(tensors: Sequence[Planned], path: Path, progress: Progress) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that tensors are aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            start = file.tell()
            for chunk in tensor.chunks():
                progress(file.write(chunk.contiguous().view(torch.uint8).numpy().data))
            if file.tell() - start != tensor.bytes:
                raise ValueError(f"{tensor.name}: {file.tell() - start} bytes written, {tensor.bytes} planned")
