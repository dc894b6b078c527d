"""Layers that come from disk while the pass computes: a ring of buffers that reader threads keep full."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, overload

from torch import Tensor

from engine.errors import TreelineError
from engine.model.transformer import Layer
from engine.offload.direct import BLOCK, Buffer
from engine.offload.store import READERS, Piece, Store

LEAST_SLOTS = 3  # a layer that has two pieces in use, and one piece being filled


@dataclass(frozen=True, slots=True)
class Event:
    """What took from `start` to `end` (time.perf_counter): "read" of a block, "wait" for a layer, "compute" of it."""

    kind: str
    layer: int
    start: float
    end: float


Trace = Callable[[Event], None]
Build = Callable[[int, Sequence[Tensor]], Layer]


def explained(error: Exception, what: str) -> TreelineError:
    """Return `error` itself where a user can act on it; else one that says `what` happened, caused by `error`."""
    if isinstance(error, TreelineError):
        return error
    reason, *_ = str(error).splitlines() or [type(error).__name__]
    explanation = TreelineError(f"{what}: {reason}")
    explanation.__cause__ = error
    return explanation


class Ring:
    """Reads pieces of a store in a fixed order, over and over, into a few buffers, ahead of whoever takes them.

    Reads are numbered from 0: number n brings piece n % len(pieces) into slot n % slots. It may start when number
    n - slots has been given back. So after the last piece of a pass the first ones of the next are on their way.
    """

    def __init__(self, store: Store, pieces: Sequence[Piece], slots: int, readers: int = READERS) -> None:
        """Start `readers` threads, which begin at once. Raises TreelineError where there is no memory for the slots."""
        self.trace: Trace | None = None
        self.bytes_read = 0
        self._store = store
        self._pieces = pieces
        size = max(piece.size for piece in pieces)
        self._buffers = [Buffer(size) for _ in range(slots)]
        self.slots: Sequence[Tensor] = [buffer.tensor for buffer in self._buffers]
        self._taken = 0  # number of the next read to be taken
        self._next = (0, 0)  # number and block that a reader does next
        self._left = {0: pieces[0].blocks}  # blocks that are not there yet, by number, from `_taken` to `_next`
        self._reading = 0  # blocks that a thread is reading at this moment
        self._error: TreelineError | None = None
        self._closed = self._paused = False
        lock = threading.Lock()
        self._work, self._done = threading.Condition(lock), threading.Condition(lock)
        self._threads = [threading.Thread(target=self._serve, name="reader", daemon=True) for _ in range(readers)]
        for thread in self._threads:
            thread.start()

    @property
    def reader(self) -> Ring:
        """See Feed."""
        return self

    def take(self, count: int = 1) -> tuple[int, ...]:
        """Wait for the next `count` pieces, no more than there are slots, and return their slots.

        They are the caller's until `give_back`. Raises TreelineError if they could not be read, or if the ring is
        closed.
        """
        with self._done:
            while any(self._left.get(self._taken + ahead, 1) for ahead in range(count)):
                if self._closed:
                    raise TreelineError("the engine was closed during a pass")
                if self._error and not self._reading:
                    raise self._error
                self._done.wait()
        return tuple((self._taken + ahead) % len(self.slots) for ahead in range(count))

    def give_back(self, count: int = 1) -> None:
        """Let the slots taken last, so many, be filled again."""
        with self._work:
            for _ in range(count):
                del self._left[self._taken]
                self._taken += 1
            self._work.notify_all()

    def rewind(self) -> None:
        """Begin with the first piece again, after an error too; nothing to do where it is next anyway."""
        with self._done:
            if self._taken % len(self._pieces) == 0 and not self._error:
                return
            self._paused = True
            while self._reading:  # they write into the slots
                self._done.wait()
            self._error, self._paused = None, False
            self._taken = 0
            self._next = (0, 0)
            self._left = {0: self._pieces[0].blocks}
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
            piece, slot = self._pieces[number % len(self._pieces)], self._buffers[number % len(self.slots)]
            started = time.perf_counter()
            size, error = 0, None
            try:
                size = self._store.read_block(piece, block, slot, block * BLOCK)
                if trace := self.trace:  # which may be taken away meanwhile
                    trace(Event("read", number % len(self._pieces), started, time.perf_counter()))
            except Exception as caught:  # noqa: BLE001 - raised by `take`
                error = explained(caught, "weights could not be read")
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
                    last = block + 1 == self._pieces[number % len(self._pieces)].blocks
                    self._next = (number + 1, 0) if last else (number, block + 1)
                    if last:
                        self._left[number + 1] = self._pieces[(number + 1) % len(self._pieces)].blocks
                    self._reading += 1
                    return number, block
                self._work.wait()
        return None


class Feed(Protocol):
    """What brings the streamed pieces, in the order of the pass and round again: a Ring, or one behind it on a GPU."""

    @property
    def slots(self) -> Sequence[Tensor]:
        """Where pieces lie, in the memory of what computes."""
        ...

    @property
    def reader(self) -> Ring | None:
        """What reads from disk."""
        ...

    def take(self, count: int = 1) -> tuple[int, ...]:
        """See Ring."""
        ...

    def give_back(self, count: int = 1) -> None:
        """See Ring."""
        ...

    def rewind(self) -> None:
        """See Ring."""
        ...

    def close(self) -> None:
        """See Ring."""
        ...


class StreamedLayers(Sequence[Layer]):
    """The layers of a transformer in order; some of their pieces are resident, others in slots while it is their turn.

    A layer may be used until the next one is asked for. Whoever stops early need not say so: each iteration begins with
    the first layer.
    """

    def __init__(self, store: Store, resident: Mapping[int, Tensor], feed: Feed, build: Build) -> None:
        """Use the `resident` pieces, by their number in a pass, and `feed` for all others.

        `build`: makes a layer, whose number is the first argument, from its pieces, of which it copies nothing.
        """
        self.trace: Trace | None = None
        self.store = store
        self.feed = feed
        self._resident = resident
        self._build = build
        self._passes = 0
        self._made: dict[tuple[int, tuple[int, ...]], Layer] = {}  # by number and slots
        self._numbers: list[range] = []  # of each layer's pieces
        for layout in store.layout.layers:
            start = self._numbers[-1].stop if self._numbers else 0
            self._numbers.append(range(start, start + len(layout.sizes)))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Layer: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Layer]: ...

    def __getitem__(self, index: int | slice) -> Layer | Sequence[Layer]:
        """The layer for what follows from its shape; its weights are there only while it is iterated over."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self._layer(number, (0,) * self._count(number))

    def __iter__(self) -> Iterator[Layer]:
        self.feed.rewind()
        self.store.forget_rows()
        self._passes += 1
        this = self._passes
        index, count = 0, len(self)
        try:
            for index in range(count):
                streamed = self._count(index)
                with self.turn(index, streamed) as slots:
                    yield self._layer(index, slots)
            index = count
        finally:
            if index < count and this == self._passes:  # abandoned: what is next is the first layer
                self.feed.rewind()

    @contextmanager
    def turn(self, number: int, streamed: int) -> Generator[tuple[int, ...]]:
        """Wait for the next `streamed` pieces, for step `number` of the pass; their slots are the caller's for now."""
        started = time.perf_counter()
        slots = self.feed.take(streamed) if streamed else ()
        taken = time.perf_counter()
        yield slots
        if streamed:
            self.feed.give_back(streamed)
        if self.trace:
            self.trace(Event("wait", number, started, taken))
            self.trace(Event("compute", number, taken, time.perf_counter()))

    def piece(self, number: int, slots: Iterator[int]) -> Tensor:
        """Where piece `number` of the pass lies: for good, or in the next of `slots`."""
        resident = self._resident.get(number)
        return self.feed.slots[next(slots)] if resident is None else resident

    def is_streamed(self, number: int) -> bool:
        """Whether piece `number` of the pass is not resident."""
        return number not in self._resident

    def record(self, trace: Trace | None) -> None:
        """Call `trace` with everything that happens from now on, from several threads."""
        self.trace = trace
        if self.feed.reader:
            self.feed.reader.trace = trace

    @property
    def bytes_read(self) -> int:
        """By the readers so far."""
        return self.feed.reader.bytes_read if self.feed.reader else 0

    def close(self) -> None:
        """Stop reading; the layers cannot be used any more."""
        self.feed.close()
        self.store.close()

    def _count(self, index: int) -> int:
        return sum(map(self.is_streamed, self._numbers[index]))

    def _layer(self, index: int, slots: tuple[int, ...]) -> Layer:
        if (index, slots) not in self._made:
            places = iter(slots)
            pieces = [self.piece(number, places) for number in self._numbers[index]]
            self._made[index, slots] = self._build(index, pieces)
        return self._made[index, slots]
