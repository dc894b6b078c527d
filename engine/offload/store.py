"""A checkpoint repacked as one file: a header, then one aligned blob per layer, the output projection, the embedding.

A store is derived data: what does not match its checkpoint or its checksums is made again or refused, never used.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels.build import cache_directory
from engine.kernels.checksum import checksum
from engine.kernels.packed import PackedLinear, dense_shape
from engine.kernels.weights import NativeWeights, Shape, block_bytes
from engine.model.config import ModelConfig
from engine.offload.blob import CACHE_LINE, SECTOR, BlobLayout, align
from engine.offload.direct import BLOCK, Buffer, DirectFile
from engine.offload.header import Header, Source, Unusable

READERS = 3
HEAD, EMBEDDING = "head", "embedding"
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def store_path(directory: Path) -> Path:
    """Where the store of the checkpoint `directory` is kept: in the user's cache."""
    whole = directory.resolve()
    digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:12]
    return cache_directory() / "stores" / f"{whole.name}-{digest}.store"


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [offset, offset + size) of a store, read in blocks; `first_block` is its first one's number."""

    name: str
    offset: int
    size: int
    first_block: int

    @property
    def blocks(self) -> int:
        """How many blocks it has; the last may be shorter."""
        return -(-self.size // BLOCK)


@dataclass(frozen=True)
class StoreLayout:
    """What lies where in the store of a model: all of it follows from the configuration and the embedding's type."""

    config: ModelConfig
    embedding_type: str

    @cached_property
    def layers(self) -> tuple[BlobLayout, ...]:
        """The layout of every layer. Raises TreelineError for a model that cannot be streamed."""
        return tuple(BlobLayout.of(self.config, index) for index in range(self.config.num_hidden_layers))

    @property
    def head(self) -> Shape:
        """The output projection: 8 bits."""
        return dense_shape(self.config.vocab_size, self.config.hidden_size)

    @property
    def norm_offset(self) -> int:
        """Where the final norm, float32, lies behind the head's blocks."""
        return align(block_bytes(self.head), CACHE_LINE)

    @property
    def embedding_bytes(self) -> int:
        """Rows of the token embedding as the checkpoint has them."""
        return self.config.vocab_size * self.config.hidden_size * TYPES[self.embedding_type].itemsize

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of every part by name, in the order of the file."""
        layers = {layer_name(index): layout.size for index, layout in enumerate(self.layers)}
        head = align(self.norm_offset + 4 * self.config.hidden_size, SECTOR)
        return {**layers, HEAD: head, EMBEDDING: align(self.embedding_bytes, SECTOR)}

    @cached_property
    def blocks(self) -> int:
        """How many blocks all parts have."""
        return sum(-(-size // BLOCK) for size in self.sizes.values())

    def parts(self, header_size: int) -> dict[str, Part]:
        """Lay the parts out behind a header of `header_size` bytes."""
        parts: dict[str, Part] = {}
        offset, block = header_size, 0
        for name, size in self.sizes.items():
            parts[name] = Part(name, offset, size, block)
            offset, block = offset + size, block + parts[name].blocks
        return parts


def layer_name(index: int) -> str:
    """The name of a layer's part."""
    return f"layer {index}"


class Store:
    """A store opened for reading. Blocks are checked against their checksums when they are first read."""

    def __init__(self, path: Path, directory: Path, config: ModelConfig) -> None:
        """Open the store `path` of the checkpoint `directory`. Raises Unusable; reads no more than the header."""
        header = Header.read(path)
        if reason := Source.of(directory).differs(header.source):
            raise Unusable(reason)
        self.path = path
        self.layout = StoreLayout(config, header.embedding_type)
        self.parts = self.layout.parts(len(header.encode()))
        size, wanted = path.stat().st_size, max(part.offset + part.size for part in self.parts.values())
        if len(header.checksums) != self.layout.blocks or size != wanted:
            raise Unusable(f"it has {size} bytes, {wanted} are expected")
        self.file = DirectFile(path)
        self._checksums = header.checksums
        self._checked = bytearray(self.layout.blocks)

    def layer(self, index: int) -> Part:
        """The part that holds layer `index`."""
        return self.parts[layer_name(index)]

    def read_block(self, part: Part, block: int, buffer: Buffer, at: int) -> int:
        """Read block `block` of `part` into `buffer` from byte `at` on; return its size. Threads may share the store.

        Raises TreelineError when the file cannot be read or is not what was written.
        """
        start = block * BLOCK
        size = min(BLOCK, part.size - start)
        self.file.read(buffer.view[at : at + size], part.offset + start)
        number = part.first_block + block
        if not self._checked[number]:
            if checksum(buffer.tensor.data_ptr() + at, size) != self._checksums[number]:
                raise TreelineError(
                    f"{self.path} is damaged at offset {part.offset + start} ({part.name}): delete it, and it is made"
                    " again from the checkpoint"
                )
            self._checked[number] = 1
        return size

    def load(self, part: Part) -> Buffer:
        """Read all of `part` into memory of its own. Raises TreelineError."""
        buffer = Buffer(part.size)
        _in_parallel(lambda block: self.read_block(part, block, buffer, block * BLOCK), part.blocks)
        return buffer

    def check(self, part: Part) -> None:
        """Read all of `part`, keep nothing. Raises TreelineError when it is not what was written."""
        scratch = Buffer(READERS * BLOCK)
        for first in range(0, part.blocks, READERS):
            count = min(READERS, part.blocks - first)
            _in_parallel(lambda i, first=first: self.read_block(part, first + i, scratch, i * BLOCK), count)

    def head(self) -> tuple[PackedLinear, Tensor]:
        """Read the output projection, and the final norm, float32 [hidden]. Raises TreelineError."""
        layout, memory = self.layout, self.load(self.parts[HEAD]).tensor
        weights = NativeWeights(layout.head, memory[: block_bytes(layout.head)])
        end = layout.norm_offset + 4 * layout.config.hidden_size
        return PackedLinear(layout.head, weights), memory[layout.norm_offset : end].view(torch.float32)

    def embedding(self) -> Tensor:
        """The token embedding [vocab, hidden], mapped: a row is read when it is looked up. Raises TreelineError."""
        part, layout = self.parts[EMBEDDING], self.layout
        self.check(part)
        with self.path.open("rb") as file:
            # private, so that torch may have it writable; nothing writes
            mapped = mmap.mmap(
                file.fileno(), part.size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=part.offset
            )
        if hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)  # no reading ahead: the next row wanted is elsewhere
        rows = torch.frombuffer(
            mapped, dtype=TYPES[layout.embedding_type], count=layout.config.vocab_size * layout.config.hidden_size
        )
        return rows.view(layout.config.vocab_size, layout.config.hidden_size)

    def close(self) -> None:
        """Close the file; what was loaded stays."""
        self.file.close()


def _in_parallel(work: Callable[[int], object], count: int) -> None:
    """Call `work` with 0 to count - 1 on several threads; raise the first exception."""
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(work, range(count)):
            pass
