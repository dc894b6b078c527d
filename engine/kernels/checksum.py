"""A checksum of memory that keeps up with reading it."""

from __future__ import annotations

from engine.kernels import native


def checksum(address: int, size: int) -> int:
    """32 bits over `size` bytes at `address` (csrc/checksum.h); other threads run meanwhile.

    Raises TreelineError where there are no native kernels.
    """
    return native.required().tl_checksum(address, size)
