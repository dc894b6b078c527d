"""Makes the store of a checkpoint: part by part, with little memory, and from where it was when it was interrupted."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels import cpu
from engine.kernels.build import locked
from engine.kernels.packed import PackedLinear
from engine.kernels.weights import NativeWeights
from engine.model.config import ModelConfig
from engine.model.linear import LinearLoader
from engine.model.loader import CPU, load_fused_layer, load_gpu_layer
from engine.model.weights import FLOATS, Checkpoint
from engine.offload.blob import Place
from engine.offload.direct import Buffer, DirectFile
from engine.offload.gpu_blob import GpuBlobLayout
from engine.offload.header import KERNELS, Header, Kind, Source, Unusable
from engine.offload.journal import Journal
from engine.offload.store import EMBEDDING, HEAD, NORM, TILE, Part, Store, StoreLayout, store_path
from engine.offload.writer import PieceWriter, compare

EMBEDDING_TENSOR, HEAD_TENSOR, NORM_TENSOR = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
CHUNK = 2**26  # bytes of embedding or output projection in memory at a time
Progress = Callable[[str, int, int], None]  # phase, bytes done, bytes in all


def open_store(directory: Path, progress: Progress | None = None, consume: bool = False, kind: Kind = "cpu") -> Store:
    """Open the store of the checkpoint `directory`, making it first where there is none that can be used.

    `consume`: delete each weight file of the checkpoint as soon as all of it is in the store, read back and compared.
    `kind`: of the device that computes. One process makes a store at a time, others wait for it; an interrupted one is
    continued. Raises TreelineError for a model that cannot be streamed, a disk that is too small, a damaged checkpoint.
    """
    config = ModelConfig.load(directory)
    if reason := obstacle(config, kind):
        raise TreelineError(f"{directory} cannot be streamed: {reason}")
    path = store_path(directory, kind)
    try:
        return Store(path, directory, config, kind)
    except Unusable:
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if progress:
            progress("waiting for another process that repacks this model", 0, 0)
        with locked(path.with_suffix(".lock")):
            try:
                return Store(path, directory, config, kind)
            except Unusable:
                _Repacking.start(path, directory, config, consume, kind).run(progress or _silent)
            return Store(path, directory, config, kind)
    except Unusable as error:
        raise TreelineError(f"the store {path} cannot be used: {error}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TreelineError(
                f"the disk is full: {path} could not be finished; free space and start again, finished layers are kept"
            ) from None
        raise TreelineError(f"cannot make the store {path}: {error.strerror}") from None


def obstacle(config: ModelConfig, kind: Kind = "cpu") -> str | None:
    """Why a model of this configuration cannot be streamed to a kind of device, or None."""
    if config.awq is None:
        return "it is not quantised; only AWQ checkpoints are streamed"
    if config.mlp_bias:
        return "its feed-forward layers have biases"
    if kind == "cuda":
        return None if find_spec("triton") else "the package triton is needed, which brings the GPU kernels"
    if not cpu.available():
        return "the native CPU kernels are needed, which a C++ compiler makes"
    return None


class _Repacking:
    """One store in the making. The caller holds its lock."""

    def __init__(
        self, path: Path, layout: StoreLayout, checkpoint: Checkpoint, journal: Journal, consume: bool
    ) -> None:
        self.path = path
        self.partial = path.with_suffix(".partial")
        self.checkpoint = checkpoint
        self.journal = journal
        self.consume = consume
        self.layout = layout
        empty = Header(journal.kernel, journal.source, journal.embedding_type, (0,) * layout.blocks)
        self.parts = layout.parts(len(empty.encode()))
        narrow = None if layout.kind == "cpu" else layout.gpu_type
        self.loader = LinearLoader(checkpoint, layout.config, torch.float32, CPU, layout.kind == "cpu", narrow)

    @classmethod
    def start(cls, path: Path, directory: Path, config: ModelConfig, consume: bool, kind: Kind) -> _Repacking:
        """Go on where an interrupted run stopped, if the checkpoint is still the same; else begin.

        Raises TreelineError if the checkpoint is incomplete; nothing is deleted then.
        """
        kernel = KERNELS[kind]
        source, journal = Source.of(directory), Journal.read(path.with_suffix(".journal"), kernel)
        if journal and path.with_suffix(".partial").exists() and source.differs(journal.source) is None:
            checkpoint = Checkpoint.open(directory, partial=True)  # a run that consumes its source deleted some
            return cls(path, StoreLayout(config, journal.embedding_type, kind), checkpoint, journal, consume)
        checkpoint = Checkpoint.open(directory)
        embedding = checkpoint.tensor(EMBEDDING_TENSOR, [config.vocab_size, config.hidden_size], FLOATS)
        journal = Journal(path.with_suffix(".journal"), kernel, source, str(embedding.dtype).removeprefix("torch."))
        path.unlink(missing_ok=True)
        path.with_suffix(".partial").unlink(missing_ok=True)
        journal.begin()
        return cls(path, StoreLayout(config, journal.embedding_type, kind), checkpoint, journal, consume)

    def run(self, progress: Progress) -> None:
        """Make what is missing and publish the store. Raises TreelineError, and OSError for the disk."""
        self._check_space()
        file = DirectFile(self.partial, writable=True)
        try:
            _sync_directory(self.path.parent)
            total, done = sum(map(_bytes, self.parts.values())), 0
            for name, part in self.parts.items():
                progress("repacking, once for this model", done, total)
                if name not in self.journal.finished:
                    self._make(file, name, part)
                if self.consume:
                    self._delete_consumed()
                done += _bytes(part)
            progress("repacking, once for this model", done, total)
            self._publish(file)
        finally:
            file.close()

    def _make(self, file: DirectFile, name: str, part: Part) -> None:
        checksums: list[int] = []
        number, writer = 0, PieceWriter(file, part[0])
        for piece, offset, data in self._contents(name):
            if piece > number:
                checksums += writer.finish()
                number, writer = piece, PieceWriter(file, part[piece])
            writer.put(offset, data)
        checksums += writer.finish()
        file.sync()
        if self.consume:
            compare(file, part, checksums)
        self.journal.finish(name, checksums)
        self.checkpoint.release()

    def _contents(self, name: str) -> Iterator[tuple[int, int, Tensor]]:
        """Numbers of the part's pieces, offsets within them, and what lies there; no piece is left out."""
        config = self.layout.config
        if name == EMBEDDING:
            yield from self._rows(EMBEDDING_TENSOR, 0, range(config.vocab_size), lambda rows: rows)
        elif name == HEAD:
            tensor = EMBEDDING_TENSOR if config.tie_word_embeddings else HEAD_TENSOR
            if self.layout.kind == "cuda":
                narrow = self.layout.gpu_type
                yield from self._rows(tensor, 0, range(config.vocab_size), lambda rows: rows.to(narrow))
                return
            start = 0
            for number, shape in enumerate(self.layout.head_pieces):
                yield from self._rows(tensor, number, range(start, start + shape.out_features), _pack)
                start += shape.out_features
        elif name == NORM:
            yield 0, 0, self.loader.dense(NORM_TENSOR, [config.hidden_size])
        else:
            index = list(self.parts).index(name)
            for place, data in sorted(self._layer(index), key=lambda each: each[0].piece):
                yield place.piece, place.offset, data

    def _layer(self, index: int) -> Iterator[tuple[Place, Tensor]]:
        layout = self.layout.layers[index]
        if isinstance(layout, GpuBlobLayout):
            return layout.tensors(load_gpu_layer(self.loader, index, torch.empty(2, 1, 1)).layer)
        layer = load_fused_layer(self.loader, index)
        if layer is None:
            raise TreelineError(f"{self.checkpoint.directory}: layer {index} cannot be streamed: allow more memory")
        return layout.tensors(layer.layer)

    def _rows(
        self, name: str, piece: int, wanted: range, convert: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Convert rows of a tensor of the embedding's shape, some at a time: whole tiles of the kernels' layout."""
        config, offset = self.layout.config, 0
        step = max(CHUNK // (TILE * config.hidden_size * 4), 1) * TILE
        for start in range(wanted.start, wanted.stop, step):
            whole = self.checkpoint.tensor(name, [config.vocab_size, config.hidden_size])
            data = convert(whole[start : min(start + step, wanted.stop)])
            yield piece, offset, data
            offset += data.numel() * data.element_size()
            del whole, data
            self.checkpoint.release()

    def _publish(self, file: DirectFile) -> None:
        checksums = tuple(crc for name in self.parts for crc in self.journal.finished[name])
        header = Header(self.journal.kernel, self.journal.source, self.journal.embedding_type, checksums).encode()
        memory = Buffer(len(header))
        memory.view[:] = header
        file.write(memory.view, 0)
        file.sync()
        self.partial.replace(self.path)
        _sync_directory(self.path.parent)
        self.journal.path.unlink()

    def _needed(self) -> set[str]:
        """Tensors of the checkpoint, of those that are there, that parts not yet finished need."""
        open_parts = [name for name in self.parts if name not in self.journal.finished]
        return {tensor for tensor in self.checkpoint.files if any(self._uses(name, tensor) for name in open_parts)}

    def _uses(self, part: str, tensor: str) -> bool:
        if part == EMBEDDING:
            return tensor == EMBEDDING_TENSOR
        if part == HEAD:
            return tensor in (EMBEDDING_TENSOR, HEAD_TENSOR)
        if part == NORM:
            return tensor == NORM_TENSOR
        return tensor.startswith(f"model.layers.{list(self.parts).index(part)}.")

    def _delete_consumed(self) -> None:
        needed = {self.checkpoint.files[tensor] for tensor in self._needed()}
        for path in set(self.checkpoint.files.values()) - needed:
            self.checkpoint.forget(path)
            path.resolve().unlink()  # the Hugging Face cache has links to its files
            path.unlink(missing_ok=True)

    def _check_space(self) -> None:
        """Raise TreelineError if the disk cannot take what is still to be written, less what is deleted on the way."""
        missing = [name for name in self.parts if name not in self.journal.finished]
        peak = sum(_bytes(self.parts[name]) for name in missing)
        if self.consume:
            peak = self._peak(missing)
        free = shutil.disk_usage(self.path.parent).free
        if peak > free:
            raise TreelineError(
                f"{self.path.parent} has {free / 2**30:.1f} GiB free, the store of {self.checkpoint.directory.name}"
                f" needs {peak / 2**30:.1f} GiB: free space, or set TREELINE_CACHE to a folder on a larger disk"
            )

    def _peak(self, missing: list[str]) -> int:
        """Most bytes that the disk has to hold beyond what it holds now, if weight files go as they are consumed."""
        device = self.path.parent.stat().st_dev
        waiting: dict[Path, int] = {}  # the file's last part, by its place in `missing`
        for tensor, path in self.checkpoint.files.items():
            last = max((i for i, part in enumerate(missing) if self._uses(part, tensor)), default=-1)
            waiting[path] = max(waiting.get(path, -1), last)
        held = peak = 0
        for i, part in enumerate(missing):
            held += _bytes(self.parts[part])
            peak = max(peak, held)
            for path, last in waiting.items():
                if last == i and path.resolve().stat().st_dev == device:
                    held -= path.stat().st_size
        return peak


def _bytes(part: Part) -> int:
    return sum(piece.size for piece in part)


def _pack(rows: Tensor) -> Tensor:
    weights = PackedLinear.from_dense(rows).weights
    assert isinstance(weights, NativeWeights)  # obstacle() looked for the native kernels
    return weights.blocks


def _silent(phase: str, done: int, total: int) -> None:
    """Show no progress."""


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
