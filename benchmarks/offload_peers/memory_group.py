"""A memory control group of Linux (version 1 or 2): a limit on processes and on the page cache of what they read."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from engine.errors import TreelineError

ROOT = Path("/sys/fs/cgroup")
SAMPLE_S = 0.1


class _Names(NamedTuple):
    """Files of one version; `anonymous`: the line of memory.stat that counts memory that is no page cache."""

    limit: str
    swap: str
    used: str
    peak: str
    anonymous: str


_V1 = _Names(
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.usage_in_bytes", "memory.max_usage_in_bytes", "rss"
)
_V2 = _Names("memory.max", "memory.swap.max", "memory.current", "memory.peak", "anon")


class MemoryGroup:
    """Limits the processes that are started with `command`. Use as a context manager that outlives them."""

    def __init__(self, name: str, limit: int, root: Path = ROOT) -> None:
        """Make a group of at most `limit` bytes. Raises TreelineError where that is not permitted."""
        v1 = (root / "memory" / "cgroup.procs").exists()
        self._names = _V1 if v1 else _V2
        self._folder = (root / "memory" if v1 else root) / f"treeline-{name}-{os.getpid()}"
        try:
            if not v1:
                _enable(root)
            self._folder.mkdir()
            (self._folder / self._names.limit).write_text(str(limit))
            with suppress(OSError):  # a kernel without swap accounting
                (self._folder / self._names.swap).write_text(str(limit) if v1 else "0")
        except OSError as error:
            with suppress(OSError):
                self._folder.rmdir()
            raise TreelineError(
                f"cannot make a memory control group at {self._folder} ({error.strerror}): run as root on Linux"
            ) from None
        self._anonymous = 0
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return `arguments` as a command whose process belongs to the group before it does anything."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._folder / "cgroup.procs"), *arguments]

    def kill(self) -> None:
        """End every process of the group at once."""
        for line in (self._folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)

    def peak(self) -> int:
        """Return the most bytes that the group has held, page cache included (its reclaimable part as well)."""
        path = self._folder / self._names.peak
        return int((path if path.exists() else self._folder / self._names.used).read_text())

    def peak_anonymous(self) -> int:
        """Return the most bytes without page cache, looked at ten times a second."""
        return self._anonymous

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            with suppress(OSError):
                for line in (self._folder / "memory.stat").read_text().splitlines():
                    key, _, value = line.partition(" ")
                    if key == self._names.anonymous:
                        self._anonymous = max(self._anonymous, int(value))

    def __enter__(self) -> MemoryGroup:
        """The group itself, watched."""
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the group."""
        self._ended.set()
        self._sampler.join()
        with suppress(OSError):
            self._folder.rmdir()


def _enable(root: Path) -> None:
    """Let groups below `root` limit memory, which version 2 has to be told."""
    control = root / "cgroup.subtree_control"
    if "memory" not in control.read_text().split():
        control.write_text("+memory")


def forget_files(folder: Path) -> None:
    """Drop all files of `folder` from the page cache, so that they are read from the disk, by whoever reads them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # what has not been written yet cannot be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
