"""The compiled kernels behind ctypes: loading, argument types, and whether they can be used here."""

from __future__ import annotations

import ctypes
import logging
import os
from ctypes import POINTER, c_char_p, c_double, c_int64, c_void_p
from functools import lru_cache
from typing import Literal, cast

import torch

from engine.errors import TreelineError
from engine.kernels.build import BuildError, build

Backend = Literal["native", "torch", "reference"]

logger = logging.getLogger(__name__)


class LinearStruct(ctypes.Structure):
    """`tl::Linear` (csrc/gemm.h)."""

    _fields_ = (
        ("blocks", c_void_p),
        ("bias", c_void_p),
        ("in_features", c_int64),
        ("out_features", c_int64),
        ("group", c_int64),
        ("bits", c_int64),
    )


class StepStruct(ctypes.Structure):
    """`tl::Step` (csrc/attention.h)."""

    _fields_ = (
        ("past", c_int64),
        ("first", c_int64),
        ("count", c_int64),
        ("parents", c_void_p),
        ("positions", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
    )


class CacheStruct(ctypes.Structure):
    """`tl::Cache` (csrc/attention.h)."""

    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("capacity", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
    )


class LayerStruct(ctypes.Structure):
    """`tl::Layer` (csrc/layer.h)."""

    _fields_ = (
        ("qkv", LinearStruct),
        ("output", LinearStruct),
        ("gate_up", LinearStruct),
        ("down", LinearStruct),
        ("input_norm", c_void_p),
        ("post_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("intermediate", c_int64),
        ("eps", c_double),
    )


SIGNATURES: dict[str, tuple[object, ...]] = {
    "tl_instruction_set": (),
    "tl_checksum": (c_void_p, c_int64),
    "tl_pack_awq": (POINTER(LinearStruct), c_void_p, c_void_p, c_void_p, c_void_p, c_int64),
    "tl_pack_dense": (POINTER(LinearStruct), c_void_p, c_void_p, c_int64, c_int64),
    "tl_dequantize": (POINTER(LinearStruct), c_void_p, c_int64),
    "tl_linear": (c_void_p, c_void_p, c_int64, c_void_p, c_double, c_void_p, c_int64),
    "tl_layer": (c_void_p, c_void_p, c_void_p, c_void_p, c_int64),
    "tl_move_slots": (c_void_p, c_void_p, c_int64, c_int64),
    "tl_top_logprobs": (c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p, c_void_p, c_int64),
}
RETURNING = {"tl_instruction_set": c_char_p, "tl_checksum": c_int64}


def load(march: str = "native") -> ctypes.CDLL:
    """The kernels for an instruction set (a value of the compiler's -march), compiled if need be. Raises BuildError."""
    path = build(march)
    try:
        loaded = ctypes.CDLL(str(path))
        for name, arguments in SIGNATURES.items():
            function = getattr(loaded, name)
            function.argtypes = list(arguments)
            function.restype = RETURNING.get(name)
    except (OSError, AttributeError) as error:
        raise BuildError(f"{path}: {error}") from error
    return loaded


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels for this CPU, or None (said once in the log) where they cannot be had.

    `TREELINE_KERNELS_MARCH` overrides the instruction set (tests run the AVX2 kernels on any machine with it).
    """
    try:
        return load(os.environ.get("TREELINE_KERNELS_MARCH", "native"))
    except BuildError as error:
        logger.warning("CPU kernels unavailable, using torch's (slower): %s", error)
        return None


def backend() -> Backend:
    """Which implementation new layers use: native where it works, else torch. `TREELINE_KERNELS` overrides.

    Raises TreelineError for an unknown override, or for `native` where the kernels cannot be had.
    """
    chosen = os.environ.get("TREELINE_KERNELS", "")
    if chosen in ("torch", "reference"):
        return cast("Backend", chosen)
    if chosen not in ("", "native"):
        raise TreelineError(f"TREELINE_KERNELS is {chosen!r}: it must be native, torch or reference")
    if library() is not None:
        return "native"
    if chosen == "native":
        raise TreelineError("TREELINE_KERNELS is native, but the kernels could not be compiled (see the log)")
    return "torch"


def available() -> bool:
    """Whether the native kernels are in use."""
    return backend() == "native"


def required() -> ctypes.CDLL:
    """The compiled kernels; TreelineError where there are none."""
    loaded = library()
    if loaded is None:
        raise TreelineError("the native CPU kernels are not available on this machine: install a C++ compiler")
    return loaded


def threads() -> int:
    """Threads per call of the native kernels: as many as torch's, unless `use_threads` said otherwise."""
    return _threads[0] or torch.get_num_threads()


def use_threads(count: int | None, native_only: bool = False) -> None:
    """Let every kernel use `count` threads, None for as many as torch takes by itself.

    `native_only`: torch computes with one thread, because its threads spin for a while when they are done and would
    keep the native kernels' threads from the cores.
    """
    _threads[0] = count or _DEFAULT_THREADS
    torch.set_num_threads(1 if native_only else _threads[0])


_DEFAULT_THREADS = torch.get_num_threads()  # one per core, or what OMP_NUM_THREADS says
_threads = [0]  # 0: torch's number
