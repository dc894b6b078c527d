"""The GPU kernels, in Triton's language: bodies only; `engine.kernels.gpu` launches them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import triton  # pyright: ignore[reportMissingTypeStubs]

_triton = cast(Any, triton)
OutOfResources = cast("type[Exception]", _triton.OutOfResources)  # a kernel asks for more than the GPU has


class Kernel(Protocol):
    """What a function becomes: `kernel[grid](arguments)` launches one program per cell of the grid."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        """Return what launches."""
        ...


def kernel(*unspecialised: str) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel. Numbers named here take many values: they are not to be compiled in."""

    def declare(function: Callable[..., None]) -> Kernel:
        return _triton.jit(function, do_not_specialize=list(unspecialised))

    return declare
