"""Which device computes, and what is said when its memory is full."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch

from engine.errors import MemoryFullError, TreelineError


def pick_device(name: str, prefer_gpu: bool) -> torch.device:
    """Return the device for "cpu", "cuda" or "auto" (a GPU if there is one and it is preferred).

    Raises TreelineError when a GPU is asked for and torch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise TreelineError("device cuda: torch finds no GPU; use --device cpu, or install torch with CUDA")
    gpu = name == "cuda" or (name == "auto" and prefer_gpu and torch.cuda.is_available())
    return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")


def gpu_memory() -> tuple[int, int]:
    """Return the bytes of the current GPU's memory that are free, and all of them; zeros where torch finds no GPU."""
    return torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)


def gpu_name() -> str:
    """Return what the current GPU is called."""
    return torch.cuda.get_device_name()


def runs_triton(device: torch.device) -> bool:
    """Tell whether the kernels of `engine.kernels.cuda` run on `device`: a GPU since Ampere, with Triton installed."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def beside(device: torch.device) -> AbstractContextManager[object]:
    """Within this context a GPU does what this thread asks for in its order, but not behind what others have asked for.

    What is made here may be used here, in any thread; only numbers that were brought to the host may leave. What was
    made elsewhere may be used if it was there (see `settle`) before. On a CPU nothing is different.
    """
    return torch.cuda.stream(_second_stream(device)) if device.type == "cuda" else nullcontext()


def settle(device: torch.device) -> None:
    """Wait until a GPU has done all that it was asked for so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@cache  # one for all: torch has 32, and gives them out in turn, the same again to others after these
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def memory_explained(what: str) -> Generator[None]:
    """Turn "out of memory" on a GPU into a MemoryFullError; `what` says what was needed, and for what."""
    try:
        yield
    except torch.OutOfMemoryError:
        free, total = gpu_memory()
        room = f" of {total / 2**30:.1f} GiB, {free / 2**30:.1f} are free" if total else ""
        raise MemoryFullError(
            f"the GPU's memory is full{room}: {what}; close what else uses the GPU, choose a smaller model or"
            " context_length, or use --device cpu"
        ) from None
