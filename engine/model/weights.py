"""Tensors of a checkpoint in Hugging Face layout, memory-mapped from safetensors and checked before use."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import TreelineError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(slots=True)
class Checkpoint:
    """A checkpoint opened for reading. Tensors are views of the mapped file: pages are read when they are touched."""

    directory: Path
    files: dict[str, Path]
    _handles: dict[Path, Any] = field(default_factory=dict[Path, Any])

    @classmethod
    def open(cls, directory: Path, partial: bool = False) -> Checkpoint:
        """Find the tensors of `directory`: one or more .safetensors files, with an index where they are sharded.

        `partial`: those of the files that are there, should some be missing. Raises TreelineError for a missing or
        damaged file, and for pickled weights, which can run code when loaded.
        """
        checkpoint = cls(directory, {})
        for path in sorted(directory.glob("*.safetensors")) if partial else _shards(directory):
            for name in checkpoint._handle(path).keys():  # noqa: SIM118 - not a mapping
                checkpoint.files[name] = path
        return checkpoint

    def bytes(self) -> int:
        """Return the size of all files."""
        return sum(path.stat().st_size for path in set(self.files.values()))

    def release(self) -> None:
        """Unmap the files, and let the system forget their pages; a tensor asked for later maps its file again."""
        self._handles.clear()
        for path in set(self.files.values()):
            if hasattr(os, "posix_fadvise"):
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def forget(self, path: Path) -> None:
        """Unmap one file, and hold its tensors for missing from now on."""
        self._handles.pop(path, None)
        self.files = {name: file for name, file in self.files.items() if file != path}

    def has(self, name: str) -> bool:
        """Tell whether there is a tensor called `name`."""
        return name in self.files

    def tensor(self, name: str, shape: Sequence[int], dtypes: Sequence[torch.dtype] = FLOATS) -> Tensor:
        """Return tensor `name` without a copy. Raises TreelineError if absent or not of `shape` and `dtypes`."""
        if name not in self.files:
            raise TreelineError(f"{self.directory}: tensor {name} is missing: the checkpoint is incomplete")
        path = self.files[name]
        try:
            tensor = cast(Tensor, self._handle(path).get_tensor(name))
        except SafetensorError as error:
            raise TreelineError(f"{path} is damaged at {name} ({_reason(error)}): download it again") from None
        if tuple(tensor.shape) != tuple(shape):
            raise TreelineError(f"{path}: {name} has shape {list(tensor.shape)}, config.json asks for {list(shape)}")
        if tensor.dtype not in dtypes:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise TreelineError(
                f"{path}: {name} is {str(tensor.dtype).removeprefix('torch.')}: supported are {allowed}"
            )
        return tensor

    def _handle(self, path: Path) -> Any:
        if path not in self._handles:
            try:
                self._handles[path] = safe_open(path, framework="pt")
            except FileNotFoundError:
                raise TreelineError(f"{path} is missing: the checkpoint is incomplete, download it again") from None
            except (SafetensorError, OSError) as error:
                raise TreelineError(f"{path} is truncated or damaged ({_reason(error)}): download it again") from None
        return self._handles[path]


def has_weights(directory: Path) -> bool:
    """Whether a checkpoint's weight files are there; of a streamed model, they may have gone into its store."""
    try:
        return bool(_shards(directory))
    except TreelineError:
        return False


def _shards(directory: Path) -> list[Path]:
    index = directory / INDEX
    if index.exists():
        return _indexed(index)
    single = directory / "model.safetensors"
    if single.exists():
        return [single]
    found = sorted(directory.glob("*.safetensors"))
    if found:
        return found
    pickles = sorted(path for pattern in PICKLES for path in directory.glob(pattern))
    if pickles:
        raise TreelineError(
            f"{pickles[0]} is a pickle, which can run code when it is loaded: Treeline reads safetensors only; convert"
            " it with transformers: from_pretrained(...).save_pretrained(..., safe_serialization=True)"
        )
    raise TreelineError(f"{directory} holds no .safetensors file: a checkpoint is a folder in Hugging Face layout")


def _indexed(index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TreelineError(f"{index} is not a safetensors index ({_reason(error)}): download it again") from None
    for name in names:
        if not _is_shard_name(name):
            raise TreelineError(f"{index} names {reprlib.repr(name)}: a .safetensors file beside it is needed")
        if not (index.parent / name).exists():
            raise TreelineError(f"{index.parent / name} is missing: {index.name} asks for it, download it again")
    return [index.parent / name for name in names]


def _is_shard_name(name: object) -> bool:
    """Tell whether `name` can be a file beside the index: no path, and no name that no file system takes."""
    if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
        return False
    return Path(name).name == name and name.endswith(".safetensors")


def _reason(error: Exception) -> str:
    """Return what `error` says as one short line: it may quote the damaged file."""
    text = "".join(character if character.isprintable() else " " for character in str(error))
    return text if len(text) <= 160 else f"{text[:160]}..."
