"""When the imports of documents are looked up: once the typing pauses, one document at a time, each as it is last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from lsp_server.source_text import SourceText

PAUSE_SECONDS = 0.4  # of no typing
logger = logging.getLogger(__name__)


class Refresher:
    """Calls `refresh` in another thread. Where it takes longer than the typing pauses, what is outdated is left out."""

    def __init__(self, refresh: Callable[[SourceText], None]) -> None:
        self._refresh = refresh
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._due: dict[str, SourceText] = {}
        self._work: asyncio.Task[None] | None = None

    def later(self, source: SourceText) -> None:
        """A document has changed."""
        self.forget(source.uri)
        loop = asyncio.get_running_loop()
        self._timers[source.uri] = loop.call_later(PAUSE_SECONDS, self._now, source)

    def forget(self, uri: str) -> None:
        """A document was closed."""
        self._due.pop(uri, None)
        if timer := self._timers.pop(uri, None):
            timer.cancel()

    def _now(self, source: SourceText) -> None:
        del self._timers[source.uri]
        self._due[source.uri] = source
        if self._work is None:
            self._work = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._due:
            source = self._due.pop(next(iter(self._due)))
            try:
                await asyncio.to_thread(self._refresh, source)
            except Exception:  # one document must not keep the others from it
                logger.exception("definitions could not be looked up")
        self._work = None
