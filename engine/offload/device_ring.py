"""A ring in a device's own memory that copies keep full: from host memory where a piece lies there, else from disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from torch import Tensor

from engine.errors import TreelineError
from engine.kernels.copies import Copies, Mark
from engine.offload.stream import Ring, explained

AHEAD = 2  # pieces that the host may be ahead of the device: a cancelled pass ends that soon


class DeviceRing:
    """Copies pieces in a fixed order, over and over, into a few slots, ahead of whoever computes with them. A Feed.

    Numbers and slots are those of Ring. A thread issues the copies. Copy n waits on the device for the end of what
    computed with piece n - slots, and what computes with piece n waits there for copy n: the host waits for neither.
    """

    def __init__(
        self, copies: Copies, sources: Sequence[Tensor | None], slots: Sequence[Tensor], disk: Ring | None
    ) -> None:
        """Start the thread, which begins at once.

        `sources`: for each piece its place in host memory; None: it is the next that `disk` brings. `slots` lie in the
        device's memory.
        """
        self.slots = slots
        self._copies = copies
        self._sources = sources
        self._disk = disk
        self._taken = 0  # number of the next piece to be taken
        self._issued = 0  # number of the next copy
        self._ready: dict[int, Mark] = {}  # ends of copies, by number, from `_taken` to `_issued`
        self._used: list[Mark | None] = [None] * len(self.slots)  # ends of what computed with the slots
        self._behind: deque[Mark] = deque()  # the last of them
        self._copying = self._paused = self._closed = False
        self._error: TreelineError | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="copier", daemon=True)
        self._thread.start()

    def take(self, count: int = 1) -> tuple[int, ...]:
        """Return the slots of the next `count` pieces; what the caller computes from now on finds them there.

        Raises TreelineError if one could not be read or copied, or if the ring is closed.
        """
        while len(self._behind) > AHEAD:
            self._behind.popleft().synchronize()
        numbers = range(self._taken, self._taken + count)
        with self._changed:
            while not all(number in self._ready for number in numbers):
                if self._closed:
                    raise TreelineError("the engine was closed during a pass")
                if self._error:
                    raise self._error
                self._changed.wait()
            for number in numbers:
                self._copies.hold(self._ready[number])
        return tuple(number % len(self.slots) for number in numbers)

    def give_back(self, count: int = 1) -> None:
        """Let the slots taken last, so many, be filled again once what computes by now is done."""
        done = self._copies.computed()
        self._behind.append(done)
        with self._changed:
            for _ in range(count):
                self._used[self._taken % len(self.slots)] = done
                del self._ready[self._taken]
                self._taken += 1
            self._changed.notify_all()

    def rewind(self) -> None:
        """Begin with the first piece again, after an error too; nothing to do where it is next anyway."""
        with self._changed:
            if self._taken % len(self._sources) == 0 and not self._error:
                return
            self._paused = True
            while self._copying:
                self._changed.wait()
            done = self._copies.computed()  # a slot that was not given back may be in use still
            self._used = [done] * len(self.slots)
            self._ready.clear()
            self._taken = self._issued = 0
            if self._disk:
                self._disk.rewind()
            self._error, self._paused = None, False
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the thread and those of the disk, and wait for them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._disk:
            self._disk.close()
        self._thread.join()
        self._copies.close()

    @property
    def reader(self) -> Ring | None:
        """See Feed."""
        return self._disk

    def _serve(self) -> None:
        while (number := self._claim()) is not None:
            end, error = None, None
            try:
                end = self._copy(number)
            except Exception as caught:  # noqa: BLE001 - raised by `take`
                error = explained(caught, "weights could not be copied to the GPU")
            with self._changed:
                self._copying = False
                self._error = self._error or error
                if end is not None:
                    self._ready[number] = end
                    self._issued += 1
                self._changed.notify_all()

    def _claim(self) -> int | None:
        """Wait for a copy that may be issued, and return its number; None: the ring closes."""
        with self._changed:
            while not self._closed:
                if self._issued < self._taken + len(self.slots) and not self._error and not self._paused:
                    self._copying = True
                    return self._issued
                self._changed.wait()
        return None

    def _copy(self, number: int) -> Mark:
        """Issue a copy; one from disk is waited for, because its source is to be filled again."""
        slot = number % len(self.slots)
        used = self._used[slot]
        if used:
            self._copies.wait(used)
        source = self._sources[number % len(self._sources)]
        if source is not None:
            self._copies.copy(source, self.slots[slot][: source.numel()])
            return self._copies.copied()
        assert self._disk  # there is one wherever a source is missing
        (place,) = self._disk.take()
        self._copies.copy(self._disk.slots[place], self.slots[slot][: self._disk.slots[place].numel()])
        end = self._copies.copied()
        end.synchronize()
        self._disk.give_back()
        return end
