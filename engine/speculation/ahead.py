"""Drafting while the target is busy: what a streamed pass leaves of the machine is used to guess further."""

from __future__ import annotations

import threading
from types import TracebackType

from engine.speculation.drafter import ModelDrafter

MORE_NODES = 4  # times as many as are verified: most of what is guessed ahead turns out to be beside the text
MOST_NODES = 256  # of the drafter's cache


class DraftingAhead:
    """Within this context a thread goes on growing the drafter's last tree; leaving it waits for at most one pass."""

    def __init__(self, drafter: ModelDrafter, nodes: int, max_depth: int) -> None:
        """`nodes`: as many as the tree has that is being verified."""
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._arguments = drafter, min(MORE_NODES * nodes, MOST_NODES), max_depth
        self._thread = threading.Thread(target=self._extend, name="drafting ahead", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error and error is None:
            raise self._error

    def _extend(self) -> None:
        drafter, nodes, max_depth = self._arguments
        try:
            drafter.extend(nodes, max_depth, self._stop.is_set)
        except BaseException as error:  # noqa: BLE001 - raised again where it can be seen
            self._error = error
