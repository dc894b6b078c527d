"""The CPU path: native kernels compiled at first use, torch's own where they cannot be had.

`PackedLinear` and `top_logprobs` work on every machine; `NativeLayer` where `available()` is true and `fits` says so.
"""

from __future__ import annotations

from engine.kernels.layer import LayerShape, LayerWeights, NativeCache, NativeLayer, Step
from engine.kernels.logits import top_logprobs
from engine.kernels.native import available, backend, threads, use_threads
from engine.kernels.packed import PackedLinear

__all__ = [
    "LayerShape",
    "LayerWeights",
    "NativeCache",
    "NativeLayer",
    "PackedLinear",
    "Step",
    "available",
    "backend",
    "threads",
    "top_logprobs",
    "use_threads",
]
