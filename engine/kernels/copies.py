"""Copies into a GPU's memory, beside what the GPU computes: on a stream of their own, ordered by events alone."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Protocol, cast

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class Mark(Protocol):
    """A point in what the GPU was told to do."""

    def synchronize(self) -> None:
        """Wait until the GPU has come to this point."""
        ...


class Copies(Protocol):
    """Two queues of a device: one copies, one computes. Calls return before what they ask for is done.

    `computed` and `hold` are for the thread that computes, the others for the one that copies.
    """

    def pin(self, memory: Tensor) -> bool:
        """Let `memory` of the host be copied from without a detour; return whether that was granted."""
        ...

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy host memory to the device's behind all earlier copies."""
        ...

    def copied(self) -> Mark:
        """Mark the end of the copies so far."""
        ...

    def wait(self, mark: Mark) -> None:
        """Begin no further copy before `mark`."""
        ...

    def computed(self) -> Mark:
        """Mark the end of what computes so far."""
        ...

    def hold(self, mark: Mark) -> None:
        """Begin nothing further that computes before `mark`."""
        ...

    def close(self) -> None:
        """Wait for the copies so far, and let go of pinned memory."""
        ...


class _Past:
    """A mark that was passed when it was made."""

    def synchronize(self) -> None:
        """Return at once."""


class PlainCopies:
    """For a device that is the host itself: every call has done its work when it returns."""

    def pin(self, memory: Tensor) -> bool:  # noqa: ARG002 - there is no detour
        """See Copies."""
        return True

    def copy(self, source: Tensor, target: Tensor) -> None:
        """See Copies."""
        target.copy_(source)

    def copied(self) -> Mark:
        """See Copies."""
        return _Past()

    def wait(self, mark: Mark) -> None:
        """See Copies."""

    def computed(self) -> Mark:
        """See Copies."""
        return _Past()

    def hold(self, mark: Mark) -> None:
        """See Copies."""

    def close(self) -> None:
        """See Copies."""


def forget_error(device: torch.device) -> None:
    """Let CUDA forget that a call of this thread has failed: torch would say it of the next kernel that it launches.

    That is how it is forgotten here, because torch does not give away CUDA's own function for it.
    """
    with suppress(RuntimeError):
        torch.zeros(1, device=device)


class CudaCopies:
    """For a GPU. Has never run on one."""

    def __init__(self, device: torch.device) -> None:
        """Make the stream for copies."""
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._runtime = cast(Any, torch.cuda).cudart()  # torch has no types for it
        self._pinned: list[Tensor] = []
        self._refused = False

    def pin(self, memory: Tensor) -> bool:
        """See Copies. Once refused it is not tried again: the system's limit is reached."""
        if self._refused:
            return False
        result = int(self._runtime.cudaHostRegister(memory.data_ptr(), memory.numel(), 0))
        if result:
            forget_error(self._device)
            self._refused = True
            total = sum(each.numel() for each in self._pinned)
            logger.warning(
                "the system pins no more than %.1f GiB of memory (CUDA error %d): copies of the rest to the GPU will be"
                " slower; `ulimit -l` may allow more",
                total / 2**30,
                result,
            )
            return False
        self._pinned.append(memory)
        return True

    def copy(self, source: Tensor, target: Tensor) -> None:
        """See Copies."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def copied(self) -> Mark:
        """See Copies."""
        return self._record(self._stream)

    def wait(self, mark: Mark) -> None:
        """See Copies."""
        self._stream.wait_event(cast("torch.cuda.Event", mark))

    def computed(self) -> Mark:
        """See Copies."""
        return self._record(torch.cuda.current_stream(self._device))

    def hold(self, mark: Mark) -> None:
        """See Copies."""
        torch.cuda.current_stream(self._device).wait_event(cast("torch.cuda.Event", mark))

    def close(self) -> None:
        """See Copies."""
        self._stream.synchronize()
        for memory in self._pinned:
            if int(self._runtime.cudaHostUnregister(memory.data_ptr())):
                forget_error(self._device)
        self._pinned.clear()

    def _record(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        event = torch.cuda.Event(blocking=True)  # whoever waits for it leaves the core to others
        event.record(stream)
        return event


def copies_to(device: torch.device) -> Copies:
    """Return what copies to `device`."""
    return PlainCopies() if device.type == "cpu" else CudaCopies(device)
