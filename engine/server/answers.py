"""From a job's chunks in the engine's thread to an answer in the event loop, and back: who hangs up cancels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from engine.request import CompletionChunk, CompletionRequest
from engine.server.errors import ApiError, of_failure
from engine.server.jobs import Busy, Event, Failure, Job, Kind
from engine.server.scheduler import Scheduler

MAX_BACKLOG = 8192  # chunks that wait for a slow client; one that lets more pile up is cancelled

Result = TypeVar("Result")


class Disconnected(Exception):  # noqa: N818 - nobody is there to be told
    """The client has hung up."""


class Answer:
    """The jobs of one HTTP request and their chunks, in the order in which they come."""

    def __init__(
        self,
        scheduler: Scheduler,
        requests: Sequence[CompletionRequest],
        kind: Kind,
        key: str = "",
        enough: Callable[[CompletionChunk], bool] | None = None,
    ) -> None:
        """Queue one job per request. `enough`: whether, after a chunk, the rest is not wanted.

        Raises ApiError 429 when too many wait.
        """
        loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.count = len(requests)
        self._open = len(requests)
        self._enough = enough

        def deliver_to(index: int) -> Callable[[Event], None]:
            return lambda event: _call_soon(loop, self._put, index, event)

        self._jobs = [Job(request, deliver_to(index), kind, key) for index, request in enumerate(requests)]
        try:
            scheduler.submit(*self._jobs)
        except Busy:
            raise ApiError(429, "too many requests wait already: try again", code="queue_full", retry_after=1) from None

    def cancel(self) -> None:
        """Stop all jobs."""
        for job in self._jobs:
            job.cancel()

    async def chunks(self) -> AsyncIterator[tuple[int, CompletionChunk]]:
        """Yield (index of the request, chunk) until all have ended. Raises ApiError when one fails."""
        while self._open:
            index, event = await self._events.get()
            if isinstance(event, Failure):
                self.cancel()
                raise of_failure(event)
            if event.finish_reason is not None:
                self._open -= 1
            if self._enough and self._enough(event):
                self.cancel()
            yield index, event

    def _put(self, index: int, event: Event) -> None:
        self._events.put_nowait((index, event))
        if self._events.qsize() > MAX_BACKLOG:
            self.cancel()


def _call_soon(
    loop: asyncio.AbstractEventLoop, function: Callable[[int, Event], None], index: int, event: Event
) -> None:
    try:
        loop.call_soon_threadsafe(function, index, event)
    except RuntimeError:  # the loop is closed: nobody waits for this any more
        return


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`, unless the client hangs up first: then it is cancelled. Raises Disconnected."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Disconnected
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnect(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def collect(request: Request, answer: Answer) -> list[list[CompletionChunk]]:
    """Return all chunks of each of the answer's requests. Raises Disconnected and ApiError."""

    async def gather() -> list[list[CompletionChunk]]:
        found: list[list[CompletionChunk]] = [[] for _ in range(answer.count)]
        async for index, chunk in answer.chunks():
            found[index].append(chunk)
        return found

    try:
        return await while_connected(request, gather())
    finally:
        answer.cancel()


async def stream(
    request: Request,
    answer: Answer,
    encode: Callable[[AsyncIterator[tuple[int, CompletionChunk]]], AsyncIterator[bytes]],
    media_type: str,
    encode_error: Callable[[ApiError], bytes],
) -> Response:
    """Answer piece by piece. What fails before the first piece is an error status; later, the last piece says it."""
    chunks = answer.chunks()
    try:
        first = await while_connected(request, _next(chunks))
    except BaseException:
        answer.cancel()
        raise

    async def all_chunks() -> AsyncIterator[tuple[int, CompletionChunk]]:
        yield first
        async for each in chunks:
            yield each

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in encode(all_chunks()):
                yield piece
        except ApiError as error:
            yield encode_error(error)

    return _Stream(pieces(), answer, media_type)


async def _next(chunks: AsyncIterator[tuple[int, CompletionChunk]]) -> tuple[int, CompletionChunk]:
    return await anext(chunks)


class _Stream(StreamingResponse):
    """Streams, and cancels the work as soon as the client hangs up."""

    def __init__(self, pieces: AsyncIterator[bytes], answer: Answer, media_type: str) -> None:
        super().__init__(
            pieces, media_type=media_type, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._answer = answer

    async def listen_for_disconnect(self, receive: Receive) -> None:
        """See StreamingResponse."""
        await super().listen_for_disconnect(receive)
        self._answer.cancel()  # at once: it takes a while until all that awaits has been left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


def dump(value: object) -> bytes:
    """Return compact JSON without any character that somebody takes for the end of a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not text.isascii():
        text = text.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text.encode()


def server_sent(value: object) -> bytes:
    """Return one server-sent event."""
    return b"data: " + dump(value) + b"\n\n"
