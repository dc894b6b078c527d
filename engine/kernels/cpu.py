"""The CPU path: native kernels compiled at first use, torch's own where they cannot be had.

`PackedLinear` and `top_logprobs` work on every machine; `NativeLayer` where `available()` is true and `fits` says so.
"""

from __future__ import annotations

from engine.kernels.layer import LayerShape, LayerWeights, NativeLayer, Step
from engine.kernels.logits import top_logprobs
from engine.kernels.native import available, backend
from engine.kernels.packed import PackedLinear

__all__ = [
    "LayerShape",
    "LayerWeights",
    "NativeLayer",
    "PackedLinear",
    "Step",
    "available",
    "backend",
    "top_logprobs",
]
