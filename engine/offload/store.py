"""A checkpoint repacked as one file: a header, then the layers, output projection and embedding, in aligned pieces.

A store is derived data: what does not match its checkpoint or its checksums is made again or refused, never used.
"""

from __future__ import annotations

import glob
import hashlib
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import EngineFaultError
from engine.kernels.build import cache_directory
from engine.kernels.checksum import checksum
from engine.kernels.packed import dense_shape
from engine.kernels.weights import Shape, block_bytes
from engine.model.config import ModelConfig
from engine.model.loader import gpu_type
from engine.offload.blob import SECTOR, BlobLayout, align
from engine.offload.direct import BLOCK, Buffer, DirectFile
from engine.offload.gpu_blob import GpuBlobLayout
from engine.offload.header import KERNELS, Header, Kind, Source, Unusable

READERS = 3
TILE = 16  # outputs that lie together in the blocks of the kernels
HEAD, NORM, EMBEDDING = "head", "norm", "embedding"
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def store_path(directory: Path, kind: Kind = "cpu") -> Path:
    """Where the store of the checkpoint `directory` for a kind of device is kept: in the user's cache."""
    whole = directory.resolve()
    digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:12]
    return cache_directory() / "stores" / f"{whole.name}-{digest}{'' if kind == 'cpu' else f'.{kind}'}.store"


def store_files(directory: Path) -> list[Path]:
    """The stores of the checkpoint `directory` for all kinds of devices, whole or begun, and what lies beside them."""
    path = store_path(directory)
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [offset, offset + size) of a store, read in blocks; `first_block` is its first one's number."""

    name: str
    offset: int
    size: int
    first_block: int

    @property
    def blocks(self) -> int:
        """How many blocks it has; the last may be shorter."""
        return -(-self.size // BLOCK)


Part = tuple[Piece, ...]  # a layer, for one; a piece is what is streamed, or resident, as a whole


@dataclass(frozen=True)
class StoreLayout:
    """What lies where in the store of a model: all of it follows from the configuration and the embedding's type."""

    config: ModelConfig
    embedding_type: str
    kind: Kind = "cpu"

    @cached_property
    def layers(self) -> tuple[BlobLayout, ...] | tuple[GpuBlobLayout, ...]:
        """The layout of every layer. Raises TreelineError for a model that cannot be streamed."""
        numbers = range(self.config.num_hidden_layers)
        if self.kind == "cpu":
            return tuple(BlobLayout.of(self.config, index) for index in numbers)
        return tuple(GpuBlobLayout.of(self.config, index, self.gpu_type) for index in numbers)

    @property
    def gpu_type(self) -> torch.dtype:
        """Of a GPU's activations and dense weights."""
        return gpu_type(self.config, inexact=True) or torch.float16

    @property
    def head(self) -> Shape:
        """The output projection on a CPU: 8 bits."""
        return dense_shape(self.config.vocab_size, self.config.hidden_size)

    @cached_property
    def head_pieces(self) -> tuple[Shape, ...]:
        """It cut by its outputs, so that no piece is larger than the largest one of a layer."""
        tiles, largest = -(-self.head.out_features // TILE), max(max(layout.sizes) for layout in self.layers)
        count = min(tiles, -(-block_bytes(self.head) // largest))
        rows = -(-tiles // count) * TILE
        starts = range(0, self.head.out_features, rows)
        return tuple(replace(self.head, out_features=min(rows, self.head.out_features - start)) for start in starts)

    @property
    def embedding_bytes(self) -> int:
        """Rows of the token embedding as the checkpoint has them."""
        return self.config.vocab_size * self.config.hidden_size * TYPES[self.embedding_type].itemsize

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Bytes of the pieces of every part by name, in the order of the file."""
        layers = {layer_name(index): layout.sizes for index, layout in enumerate(self.layers)}
        head = tuple(align(size, SECTOR) for size in self._head_sizes())
        norm, embedding = align(4 * self.config.hidden_size, SECTOR), align(self.embedding_bytes, SECTOR)
        return {**layers, HEAD: head, NORM: (norm,), EMBEDDING: (embedding,)}

    @property
    def pass_sizes(self) -> tuple[int, ...]:
        """Bytes of the pieces that may be streamed, in the order of a pass: layers; on a CPU, the output projection."""
        resident = (NORM, EMBEDDING) if self.kind == "cpu" else (HEAD, NORM, EMBEDDING)
        return tuple(size for name, sizes in self.sizes.items() if name not in resident for size in sizes)

    def _head_sizes(self) -> tuple[int, ...]:
        if self.kind == "cpu":
            return tuple(block_bytes(shape) for shape in self.head_pieces)
        return (self.config.vocab_size * self.config.hidden_size * self.gpu_type.itemsize,)

    @cached_property
    def blocks(self) -> int:
        """How many blocks all parts have."""
        return sum(-(-size // BLOCK) for sizes in self.sizes.values() for size in sizes)

    def parts(self, header_size: int) -> dict[str, Part]:
        """Lay the parts out behind a header of `header_size` bytes."""
        parts: dict[str, Part] = {}
        offset, block = header_size, 0
        for name, sizes in self.sizes.items():
            pieces: list[Piece] = []
            for size in sizes:
                pieces.append(Piece(name, offset, size, block))
                offset, block = offset + size, block + pieces[-1].blocks
            parts[name] = tuple(pieces)
        return parts


def layer_name(index: int) -> str:
    """The name of a layer's part."""
    return f"layer {index}"


class Store:
    """A store opened for reading. Blocks are checked against their checksums when they are first read."""

    def __init__(self, path: Path, directory: Path, config: ModelConfig, kind: Kind = "cpu") -> None:
        """Open the store `path` of the checkpoint `directory`. Raises Unusable; reads no more than the header."""
        header = Header.read(path, KERNELS[kind])
        if reason := Source.of(directory).differs(header.source):
            raise Unusable(reason)
        self.path = path
        self.layout = StoreLayout(config, header.embedding_type, kind)
        self.parts = self.layout.parts(len(header.encode()))
        size, wanted = path.stat().st_size, max(piece.offset + piece.size for piece in self.pieces)
        if len(header.checksums) != self.layout.blocks or size != wanted:
            raise Unusable(f"it has {size} bytes, {wanted} are expected")
        self.file = DirectFile(path)
        self._checksums = header.checksums
        self._checked = bytearray(self.layout.blocks)
        self._rows: mmap.mmap | None = None

    @property
    def pieces(self) -> Part:
        """All pieces in the order of the file."""
        return tuple(piece for part in self.parts.values() for piece in part)

    @property
    def pass_pieces(self) -> Part:
        """Those that a pass goes through, in its order."""
        return self.pieces[: len(self.layout.pass_sizes)]

    def layer(self, index: int) -> Part:
        """The part that holds layer `index`."""
        return self.parts[layer_name(index)]

    def read_block(self, piece: Piece, block: int, buffer: Buffer, at: int) -> int:
        """Read block `block` of `piece` into `buffer` from byte `at` on; return its size. Threads may share the store.

        Raises EngineFaultError when the file cannot be read or is not what was written.
        """
        start = block * BLOCK
        size = min(BLOCK, piece.size - start)
        self.file.read(buffer.view[at : at + size], piece.offset + start)
        number = piece.first_block + block
        if not self._checked[number]:
            if checksum(buffer.tensor.data_ptr() + at, size) != self._checksums[number]:
                raise EngineFaultError(
                    f"{self.path} is damaged at offset {piece.offset + start} ({piece.name}): delete it, and it is made"
                    " again from the checkpoint"
                )
            self._checked[number] = 1
        return size

    def load(self, piece: Piece) -> Buffer:
        """Read all of `piece` into memory of its own. Raises TreelineError."""
        buffer = Buffer(piece.size)
        _in_parallel(lambda block: self.read_block(piece, block, buffer, block * BLOCK), piece.blocks)
        return buffer

    def check(self, piece: Piece) -> None:
        """Read all of `piece`, keep nothing. Raises TreelineError when it is not what was written."""
        scratch = Buffer(READERS * BLOCK)
        for first in range(0, piece.blocks, READERS):
            count = min(READERS, piece.blocks - first)
            _in_parallel(lambda i, first=first: self.read_block(piece, first + i, scratch, i * BLOCK), count)

    def norm(self) -> Tensor:
        """Read the final norm: float32 [hidden]. Raises TreelineError."""
        memory = self.load(self.parts[NORM][0]).tensor
        return memory[: 4 * self.layout.config.hidden_size].view(torch.float32).clone()

    def embedding(self) -> Tensor:
        """The token embedding [vocab, hidden], mapped: a row is read when it is looked up. Raises TreelineError."""
        (piece,), layout = self.parts[EMBEDDING], self.layout
        self.check(piece)
        with self.path.open("rb") as file:
            # private, so that torch may have it writable; nothing writes
            mapped = mmap.mmap(
                file.fileno(), piece.size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=piece.offset
            )
        if hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)  # no reading ahead: the next row wanted is elsewhere
        self._rows = mapped
        rows = torch.frombuffer(
            mapped, dtype=TYPES[layout.embedding_type], count=layout.config.vocab_size * layout.config.hidden_size
        )
        return rows.view(layout.config.vocab_size, layout.config.hidden_size)

    def forget_rows(self) -> None:
        """Take the rows of the embedding that were looked up out of the process; the system may still have them."""
        if self._rows is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._rows.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Close the file; what was loaded stays."""
        self.file.close()


def _in_parallel(work: Callable[[int], object], count: int) -> None:
    """Call `work` with 0 to count - 1 on several threads; raise the first exception."""
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(work, range(count)):
            pass
