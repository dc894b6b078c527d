"""The client of the engine in the background for programs that use asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, cast

from engine.asking import HEADERS, LOST, WAIT_SECONDS, Daemon, LoadProgress, Losses, advice, whole
from engine.config import EngineConfig
from engine.errors import TreelineError
from engine.launch import POLL_SECONDS, Address, ensuring, listening, stopping
from engine.request import CompletionChunk, CompletionRequest
from engine.wire import decode_chunk, encode_request

if TYPE_CHECKING:
    import httpx

Result = TypeVar("Result")


class AsyncClient:
    """As `engine.client.Client`, for any number of requests at a time, without threads.

    Cancelling the task that iterates cancels the work. So does closing the iterator: leave a stream early by way of
    `contextlib.aclosing`, since Python closes it later otherwise.
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        name: str = "",
        environment: Mapping[str, str] | None = None,
        progress: LoadProgress | None = None,
    ) -> None:
        """See Client. Streams need httpx (extra `server`)."""
        import asyncio

        self._daemon = Daemon(config or EngineConfig(), environment, progress)
        self._name = name
        self._session: _Session | None = None
        self._opening = asyncio.Lock()

    async def complete(self, request: CompletionRequest, document: str = "") -> CompletionChunk:
        """Return the whole completion. Raises TreelineError."""
        return whole([chunk async for chunk in self.stream(request, document)])

    async def stream(self, request: CompletionRequest, document: str = "") -> AsyncGenerator[CompletionChunk]:
        """Yield verified text as it comes. Raises TreelineError."""
        import httpx

        body = encode_request(request, self._name, document)
        losses, refusal, last = Losses(self._daemon), b"", None
        while last is None:
            async with self._using() as session:
                try:
                    async with session.http.stream("POST", "/complete", content=body, headers=HEADERS) as response:
                        if response.status_code != 200:
                            refusal = await response.aread()
                        else:
                            async for line in _lines(response):
                                last = decode_chunk(line)
                                if last.finish_reason is None:
                                    yield last
                except httpx.TransportError:
                    self._forget(session)
                    if last is not None:
                        raise TreelineError(LOST) from None
                    losses.add()
                    continue
                if response.status_code != 200:
                    await self._heed(advice(response.status_code, refusal), session, losses)
                elif last is None:
                    raise TreelineError(LOST)
        if last.finish_reason is None:
            raise TreelineError(LOST)
        yield last  # all has been read by now, so that the connection is free for the next request

    async def connect(self) -> None:
        """Start the daemon where there is none, and wait until its model is loaded. Raises TreelineError."""
        import asyncio

        losses = Losses(self._daemon)
        while True:
            async with self._using() as session:
                health = await session.health()
                if health.get("status") == "ok":
                    return
                if health.get("status") == "failed":
                    raise TreelineError(str(health.get("error")))
                if not self._daemon.still_loading(health):  # it is ending, or has ended
                    self._forget(session)
                if not health:
                    losses.add(loading=True)
                await asyncio.sleep(WAIT_SECONDS)

    async def restart(self) -> None:
        """End the daemon, whoever else uses it; `connect`, or the next request, starts another."""
        address = listening(self._daemon.files)
        if address is not None:
            async with self._using() as session:
                await self._heed("replace", session, Losses(self._daemon))

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.http.aclose()
            self._session = None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def _using(self) -> AsyncGenerator[_Session]:
        """Hold the connections to the daemon; those to a dead one are closed with their last stream."""
        session = await self._open()
        session.users += 1
        try:
            yield session
        finally:
            session.users -= 1
            if session is not self._session and not session.users:
                await session.http.aclose()

    async def _open(self) -> _Session:
        """Return the connections to the daemon, after starting it if need be.

        Whoever listens at the Unix socket is the daemon; a port may be another program's by now, and is looked at anew.
        """
        if self._session is not None and self._session.address.path:
            return self._session
        async with self._opening:
            address = await _without_blocking(ensuring(self._daemon.config, self._daemon.environment))
            if self._session is None or self._session.address != address:
                self._session = _Session.to(address)
            return self._session

    def _forget(self, session: _Session) -> None:
        if self._session is session:
            self._session = None

    async def _heed(self, advice: str, session: _Session, losses: Losses) -> None:
        """Do what a refusal asks for. Raises TreelineError when the daemon has ended too often."""
        import asyncio

        if advice == "load":
            while self._daemon.still_loading(health := await session.health()):
                await asyncio.sleep(WAIT_SECONDS)
            if not health:
                self._forget(session)
                losses.add(loading=True)
            return
        if advice == "replace":
            pid = (await session.health()).get("pid")
            if isinstance(pid, int):
                await _without_blocking(stopping(pid, self._daemon.files))
                self._forget(session)
                return
        await asyncio.sleep(WAIT_SECONDS)


@dataclass(slots=True)
class _Session:
    """Open connections to a daemon, and how many streams use them."""

    address: Address
    http: httpx.AsyncClient
    users: int = 0

    @classmethod
    def to(cls, address: Address) -> _Session:
        import httpx

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=30.0)
        transport = httpx.AsyncHTTPTransport(verify=False, uds=address.path or None, limits=limits)  # no TLS
        base = "http://treeline" if address.path else f"http://127.0.0.1:{address.port}"
        http = httpx.AsyncClient(transport=transport, base_url=base, headers=address.headers(), timeout=None)
        return cls(address, http)

    async def health(self) -> Mapping[str, object]:
        """Return what the daemon says of itself, or nothing."""
        import httpx

        try:
            value: object = (await self.http.get("/health")).json()
        except (httpx.HTTPError, ValueError):
            return {}
        return cast("dict[str, object]", value) if isinstance(value, dict) else {}


async def _without_blocking(steps: Generator[None, None, Result]) -> Result:
    """Take steps that wait between them, and leave the event loop to others meanwhile."""
    import asyncio

    try:
        while True:
            next(steps)
            await asyncio.sleep(POLL_SECONDS)
    except StopIteration as done:
        return done.value
    finally:
        steps.close()


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes]:
    """Yield lines of JSON. httpx's own lines end at U+2028 and the like, too, which stand inside of strings."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest
