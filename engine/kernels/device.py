"""Which device computes."""

from __future__ import annotations

import torch

from engine.errors import TreelineError


def pick_device(name: str, prefer_gpu: bool) -> torch.device:
    """Return the device for "cpu", "cuda" or "auto" (a GPU if there is one and it is preferred).

    Raises TreelineError when a GPU is asked for and torch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise TreelineError("device cuda: torch finds no GPU; use --device cpu, or install torch with CUDA")
    gpu = name == "cuda" or (name == "auto" and prefer_gpu and torch.cuda.is_available())
    return torch.device("cuda" if gpu else "cpu")
