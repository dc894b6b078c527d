"""One completion as it streams in: what has come so far, and whoever waits for more of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable

from engine.errors import TreelineError
from engine.request import Branch, CompletionChunk, CompletionStats, FinishReason
from lsp_server.view import View

logger = logging.getLogger(__name__)
Stream = AsyncGenerator[CompletionChunk]


class Generation:
    """The text that belongs at `view`, growing until it is `done`.

    It lives in a task of its own, so that a request may leave with what there is while the rest is still to come.
    `shown` is the longest of what an editor was given. `error` says why it broke off. `ahead`: nobody has asked for it
    yet; it is what would follow if a suggestion were accepted. `others`: what goes on from its branches, by their text.
    `touched`: when the typing last went along with it (time.perf_counter). `enough`: it was cancelled because what else
    would come is not shown.
    """

    def __init__(self, view: View, text: str = "", ahead: bool = False) -> None:
        """Begin with `text`, which the model is known to say here."""
        self.view = view.trimmed()
        self.text = text
        self.ahead = ahead
        self.others: dict[str, Generation] = {}
        self.started = time.perf_counter()
        self.touched = 0.0
        self.enough = False
        self.branches: list[Branch] = []
        self.done = False
        self.shown = ""
        self.error = ""
        self.finish_reason: FinishReason | None = None
        self.stats: CompletionStats | None = None
        self.first_text_ms: float | None = None
        self._grown = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def silent(cls, view: View, text: str = "") -> Generation:
        """Return one that is done: nothing more is known to follow."""
        generation = cls(view, text)
        generation.done = True
        return generation

    def run(self, stream: Stream, grown: Callable[[Generation], None], ended: Callable[[Generation], None]) -> None:
        """Take the text from `stream`; call `grown` with each piece, and `ended` when there is no more."""
        self._task = asyncio.create_task(self._consume(stream, grown, ended))
        self._task.add_done_callback(lambda _: self._forget_task(ended))

    def cancel(self) -> None:
        """Stop it: the engine stops too. What has come stays."""
        if self._task is not None:
            self._task.cancel()

    def suffice(self) -> None:
        """Stop it because all that will be shown of it has come."""
        self.enough = True
        self.cancel()

    @property
    def broken(self) -> bool:
        """Whether it ended before its text did: what there is of it may be a fragment."""
        return bool(self.error) or (self.finish_reason == "cancelled" and not self.enough)

    @property
    def settled(self) -> bool:
        """Whether all that will be shown of it is there."""
        return self.done or self.enough

    @property
    def live(self) -> bool:
        """Whether the engine works on it."""
        return self._task is not None and not self._task.done()

    async def grown(self, seconds: float | None) -> None:
        """Wait until there is more, or until it is done, but no longer than `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._grown.wait()
        except TimeoutError:
            return

    def _forget_task(self, ended: Callable[[Generation], None]) -> None:
        """A cancelled task holds the traceback, and with it the whole request, for as long as it is held itself."""
        self._task = None
        if not self.done:  # it was cancelled before it began
            self.finish_reason = "cancelled"
            self._end(ended)

    async def _consume(
        self, stream: Stream, grown: Callable[[Generation], None], ended: Callable[[Generation], None]
    ) -> None:
        base = len(self.text)
        try:
            async for chunk in stream:
                self.text += chunk.text
                self.branches += [Branch(base + each.offset, each.text, each.logprob) for each in chunk.branches]
                if chunk.text and self.first_text_ms is None:
                    self.first_text_ms = 1000 * (time.perf_counter() - self.started)
                self.finish_reason, self.stats = chunk.finish_reason, chunk.stats or self.stats
                self._notify()
                grown(self)
        except TreelineError as error:
            self.error = str(error)
        except Exception as error:
            logger.exception("a suggestion broke off")
            self.error = f"internal error ({type(error).__name__})"
        except asyncio.CancelledError:
            self.finish_reason = "cancelled"
            raise
        finally:
            self._end(ended)
            await stream.aclose()

    def _end(self, ended: Callable[[Generation], None]) -> None:
        self.done = True
        self._notify()
        ended(self)

    def _notify(self) -> None:
        """Wake who waits now; who comes later waits for the next piece."""
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()
