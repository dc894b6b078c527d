"""Layers that come from disk while the pass computes: a ring of buffers that reader threads keep full."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from engine.errors import TreelineError
from engine.model.transformer import FusedLayer, Layer
from engine.offload.direct import BLOCK, Buffer
from engine.offload.store import READERS, Part, Store

LEAST_SLOTS = 3  # one in use, one complete, one being filled


@dataclass(frozen=True, slots=True)
class Event:
    """What took from `start` to `end` (time.perf_counter): "read" of a block, "wait" for a layer, "compute" of it."""

    kind: str
    layer: int
    start: float
    end: float


Trace = Callable[[Event], None]


class Ring:
    """Reads parts of a store in a fixed order, over and over, into a few buffers, ahead of whoever takes them.

    Reads are numbered from 0: number n brings part n % len(parts) into slot n % slots. It may start when number
    n - slots has been given back. So after the last part of a pass the first ones of the next are on their way.
    """

    def __init__(self, store: Store, parts: Sequence[Part], slots: int, readers: int = READERS) -> None:
        """Start `readers` threads, which begin at once. Raises TreelineError where there is no memory for the slots."""
        self.trace: Trace | None = None
        self.bytes_read = 0
        self._store = store
        self._parts = parts
        size = max(part.size for part in parts)
        self.slots = [Buffer(size) for _ in range(slots)]
        self._taken = 0  # number of the next read to be taken
        self._next = (0, 0)  # number and block that a reader does next
        self._left = {0: parts[0].blocks}  # blocks that are not there yet, by number, from `_taken` to `_next`
        self._reading = 0  # blocks that a thread is reading at this moment
        self._error: TreelineError | None = None
        self._closed = self._paused = False
        lock = threading.Lock()
        self._work, self._done = threading.Condition(lock), threading.Condition(lock)
        self._threads = [threading.Thread(target=self._serve, name="reader", daemon=True) for _ in range(readers)]
        for thread in self._threads:
            thread.start()

    def take(self) -> int:
        """Wait for the next part and return its slot, which is the caller's until `give_back`.

        Raises TreelineError if it could not be read, or if the ring is closed.
        """
        with self._done:
            while self._left.get(self._taken, 1):
                if self._closed:
                    raise TreelineError("the engine was closed during a pass")
                if self._error and not self._reading:
                    raise self._error
                self._done.wait()
        return self._taken % len(self.slots)

    def give_back(self) -> None:
        """Let the slot taken last be filled again."""
        with self._work:
            del self._left[self._taken]
            self._taken += 1
            self._work.notify_all()

    def rewind(self) -> None:
        """Begin with the first part again, after an error too; nothing to do where it is next anyway."""
        with self._done:
            if self._taken % len(self._parts) == 0 and not self._error:
                return
            self._paused = True
            while self._reading:  # they write into the slots
                self._done.wait()
            self._error, self._paused = None, False
            self._taken = 0
            self._next = (0, 0)
            self._left = {0: self._parts[0].blocks}
            self._work.notify_all()

    def close(self) -> None:
        """Stop the threads and wait for them."""
        with self._work:
            self._closed = True
            self._work.notify_all()
            self._done.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (job := self._claim()) is not None:
            number, block = job
            part, slot = self._parts[number % len(self._parts)], self.slots[number % len(self.slots)]
            started = time.perf_counter()
            size, error = 0, None
            try:
                size = self._store.read_block(part, block, slot, block * BLOCK)
            except TreelineError as caught:
                error = caught
            if self.trace:
                self.trace(Event("read", number % len(self._parts), started, time.perf_counter()))
            with self._done:
                self._reading -= 1
                self.bytes_read += size
                self._left[number] -= error is None
                self._error = self._error or error
                if self._error or not self._left[number] or self._paused:
                    self._done.notify_all()

    def _claim(self) -> tuple[int, int] | None:
        """Wait for a block that may be read, and return the number of the read and the block; None: the ring closes."""
        with self._work:
            while not self._closed:
                number, block = self._next
                if number < self._taken + len(self.slots) and not self._error and not self._paused:
                    last = block + 1 == self._parts[number % len(self._parts)].blocks
                    self._next = (number + 1, 0) if last else (number, block + 1)
                    if last:
                        self._left[number + 1] = self._parts[(number + 1) % len(self._parts)].blocks
                    self._reading += 1
                    return number, block
                self._work.wait()
        return None


class StreamedLayers(Sequence[Layer]):
    """The layers of a transformer in order: some are resident, the others lie in a ring's slots while it is their turn.

    A layer may be used until the next one is asked for. Whoever stops early need not say so: each iteration begins with
    the first layer.
    """

    def __init__(self, store: Store, resident: Mapping[int, Layer], slots: int) -> None:
        """Stream the layers of `store` that are not `resident`, at least one. Raises TreelineError (memory)."""
        self.trace: Trace | None = None
        self.store = store
        self._resident = resident
        self._passes = 0
        layouts = store.layout.layers
        self.streamed = [index for index in range(len(layouts)) if index not in resident]
        self._ring = Ring(store, [store.layer(index) for index in self.streamed], slots)
        # a layer's structs say where in a slot its weights are: the same for all layers of one layout
        distinct = {layouts[index] for index in self.streamed}
        self._views = [
            {layout: FusedLayer(layout.layer(slot.tensor)) for layout in distinct} for slot in self._ring.slots
        ]

    def __len__(self) -> int:
        return len(self.store.layout.layers)

    @overload
    def __getitem__(self, index: int) -> Layer: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Layer]: ...

    def __getitem__(self, index: int | slice) -> Layer | Sequence[Layer]:
        """The layer for what follows from its shape; its weights are there only while it is iterated over."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self._resident.get(number) or self._views[0][self.store.layout.layers[number]]

    def __iter__(self) -> Iterator[Layer]:
        self._ring.rewind()
        self._passes += 1
        this = self._passes
        index, count = 0, len(self)
        try:
            for index in range(count):
                started = time.perf_counter()
                layer, slot = self._resident.get(index), None
                if layer is None:
                    slot = self._ring.take()
                    layer = self._views[slot][self.store.layout.layers[index]]
                taken = time.perf_counter()
                yield layer
                if slot is not None:
                    self._ring.give_back()
                if self.trace:
                    self.trace(Event("wait", index, started, taken))
                    self.trace(Event("compute", index, taken, time.perf_counter()))
            index = count
        finally:
            if index < count and this == self._passes:  # abandoned: what is next is the first layer
                self._ring.rewind()

    def record(self, trace: Trace | None) -> None:
        """Call `trace` with everything that happens from now on, from several threads."""
        self.trace = self._ring.trace = trace

    @property
    def bytes_read(self) -> int:
        """By the readers so far."""
        return self._ring.bytes_read

    def close(self) -> None:
        """Stop reading; the layers cannot be used any more."""
        self._ring.close()
        self.store.close()
