"""Memory and files for moving gigabytes: aligned buffers with huge pages, and input and output past the page cache."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import threading
from pathlib import Path

import torch

from engine.errors import EngineFaultError, TreelineError
from engine.offload.blob import align

HUGE_PAGE = 2**21
BLOCK = 2**24  # bytes of one read: large enough for the disk, small enough for several threads to share a layer

logger = logging.getLogger(__name__)


class Buffer:
    """`size` bytes of private memory at the start of a page, on huge pages where the system has them.

    Private anonymous memory is what the kernel pins fastest for direct reads; shared memory takes twice as long.
    """

    def __init__(self, size: int) -> None:
        """Memory is taken from the system as it is touched. Raises TreelineError where there is none to be had."""
        self.size = size
        try:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            memory = mmap.mmap(-1, align(size, HUGE_PAGE), flags=flags)
        except OSError as error:
            raise TreelineError(f"no memory for {size / 2**20:.0f} MiB of weights ({error.strerror})") from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                memory.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                logger.info("no huge pages: reading will be slower")
        self.view = memoryview(memory)[:size]
        self.tensor = torch.frombuffer(memory, dtype=torch.uint8, count=size)


class DirectFile:
    """A file read or written past the page cache; where the file system refuses that, through it, leaving no trace.

    Offsets, sizes and addresses are multiples of blob.SECTOR.
    """

    def __init__(self, path: Path, writable: bool = False) -> None:
        """Open `path`; `writable`: make it if there is none. Raises TreelineError."""
        self.path = path
        self._flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self.direct = hasattr(os, "O_DIRECT")
        self._handle = -1
        self._switching = threading.Lock()
        try:
            self._handle = self._open(self.direct)
        except OSError as error:
            if error.errno != errno.EINVAL or not self.direct:
                raise TreelineError(f"cannot open {path}: {error.strerror}") from None
            self._without_direct()

    def read(self, view: memoryview, offset: int) -> None:
        """Fill `view` from `offset`; other threads run meanwhile. Raises EngineFaultError, naming file and offset."""
        done = 0
        while done < len(view):
            direct = self.direct
            try:
                count = os.preadv(self._handle, [view[done:]], offset + done)
            except OSError as error:
                if direct and self._refused(error):
                    continue
                raise EngineFaultError(f"cannot read {self.path} at offset {offset + done}: {error.strerror}") from None
            if count == 0:
                raise EngineFaultError(f"{self.path} ends at offset {offset + done}, within a layer: delete it")
            done += count
        self._forget(offset, len(view))

    def write(self, view: memoryview, offset: int) -> None:
        """Write all of `view` at `offset`. Raises OSError, when the disk is full for one."""
        done = 0
        while done < len(view):
            direct = self.direct
            try:
                done += os.pwritev(self._handle, [view[done:]], offset + done)
            except OSError as error:
                if not (direct and self._refused(error)):
                    raise
        if not self.direct:
            self.sync()
            self._forget(offset, len(view))

    def sync(self) -> None:
        """Return when all that was written will outlive a power cut. Raises OSError."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self, direct: bool) -> int:
        return os.open(self.path, self._flags | (os.O_DIRECT if direct else 0) | os.O_CLOEXEC, 0o644)

    def _refused(self, error: OSError) -> bool:
        """Whether it was direct access that failed: some file systems accept the flag and refuse the read."""
        if error.errno != errno.EINVAL:
            return False
        with self._switching:
            if self.direct:
                self._without_direct()
        return True

    def _without_direct(self) -> None:
        logger.warning("%s: the file system has no direct access (O_DIRECT): reading will be slower", self.path)
        handle = self._open(direct=False)
        if self._handle >= 0:
            os.dup2(handle, self._handle, inheritable=False)  # other threads may be using the number
            os.close(handle)
        else:
            self._handle = handle
        self.direct = False  # last: who sees it may rely on the new handle

    def _forget(self, offset: int, size: int) -> None:
        if not self.direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._handle, offset, size, os.POSIX_FADV_DONTNEED)
