r"""Clients of the engine in the background: connect to it or start it, complete, stream, cancel.

    with Client() as client:
        for chunk in client.stream(CompletionRequest(prefix="def area(width, height):\n    return ")):
            print(chunk.text, end="")

`Client` needs the standard library only and is quick to import; `AsyncClient` needs httpx.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from http.client import HTTPException, HTTPResponse
from types import TracebackType
from typing import TYPE_CHECKING

from engine import __version__
from engine.config import EngineConfig
from engine.errors import ContextOverflowError, TreelineError
from engine.launch import Address, Connection, ask_health, ensure, listening, stop
from engine.request import CompletionChunk, CompletionRequest
from engine.runtime import daemon_files
from engine.wire import CONTEXT_OVERFLOW, decode_chunk, encode_request, error_of

if TYPE_CHECKING:
    import httpx

LoadProgress = Callable[[str, int, int], None]

_POLL_SECONDS = 0.1
_ATTEMPTS = 3  # more, when the daemon ends before it has answered
_HEADERS = {"Content-Type": "application/json", "X-Treeline-Version": __version__}
_LOST = "the engine ended in the middle of an answer: ask again, and it is started anew"


class _Daemon:
    """The daemon of one configuration, as clients see it: where it is, and what its refusals ask for."""

    def __init__(
        self, config: EngineConfig, environment: Mapping[str, str] | None, progress: LoadProgress | None
    ) -> None:
        self._config = config
        self._environment = dict(os.environ if environment is None else environment)
        self._progress = progress
        self._files = daemon_files(config, self._environment)

    def address(self) -> Address:
        """Return where it listens, after starting it if need be."""
        return ensure(self._config, self._environment)

    def refused(
        self, address: Address, status: int, body: bytes, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """Do what a refusal asks for, then return; ask again after that. Raises TreelineError if there is no use."""
        message, code = error_of(body, status)
        if code == "loading":
            self._wait(address, cancelled)
        elif code == "stopping" or code == "queue_full":
            time.sleep(_POLL_SECONDS)
        elif code == "version_idle":
            self._replace(address)
        elif code == "version_busy":
            raise TreelineError(f"{message}, and it is busy: ask again later, or `treeline serve stop`")
        elif code == CONTEXT_OVERFLOW:
            raise ContextOverflowError(message)
        else:
            raise TreelineError(message)

    def connect(self, cancelled: Callable[[], bool]) -> None:
        """Start it where there is none, and wait until its model is loaded. Raises TreelineError if it cannot be."""
        while not cancelled():
            address = self.address()
            self._wait(address, cancelled)
            health = ask_health(address)
            status = (health or {}).get("status")
            if status == "ok":
                return
            if health and status == "failed":
                raise TreelineError(str(health.get("error")))
            time.sleep(_POLL_SECONDS)  # it is ending: the next one says why, if it cannot start

    def end(self) -> None:
        """End it, if it runs."""
        address = listening(self._files)
        if address is not None:
            self._replace(address)

    def _replace(self, address: Address) -> None:
        """End a daemon of another version; the next request starts one of ours."""
        pid = (ask_health(address) or {}).get("pid")
        if isinstance(pid, int):
            stop(pid, self._files)

    def _wait(self, address: Address, cancelled: Callable[[], bool]) -> None:
        """Wait until the model is loaded."""
        while (health := ask_health(address, seconds=60.0)) and not cancelled():
            if health.get("status") != "loading":
                return
            if self._progress:
                self._progress(
                    str(health.get("phase", "")), int(str(health.get("done", 0))), int(str(health.get("total", 0)))
                )
            time.sleep(_POLL_SECONDS)


class Client:
    """Asks the daemon of one configuration, one request at a time. `cancel` may be called from any thread."""

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        name: str = "",
        environment: Mapping[str, str] | None = None,
        progress: LoadProgress | None = None,
    ) -> None:
        """`name`: of this client; a newer request for the same document then takes the place of an older one.

        `environment`: variables for finding and starting the daemon, default this process's. `progress(phase, done,
        total)` is called while the model loads. Raises TreelineError if the runtime folder cannot be used.
        """
        self._daemon = _Daemon(config or EngineConfig(), environment, progress)
        self._name = name
        self._connection: Connection | None = None
        self._address = Address()
        self._cancelled = False

    def complete(self, request: CompletionRequest, document: str = "") -> CompletionChunk:
        """Return the whole completion. Raises TreelineError."""
        return whole(list(self.stream(request, document)))

    def stream(self, request: CompletionRequest, document: str = "") -> Generator[CompletionChunk]:
        """Yield verified text as it comes. Closing the generator cancels the work. Raises TreelineError."""
        self._cancelled = False
        body = encode_request(request, self._name, document)
        finished = False
        try:
            response = self._ask(body)
            while not finished and (line := response.readline()):
                chunk = decode_chunk(line)
                finished = chunk.finish_reason is not None
                if finished:
                    response.read()
                yield chunk
        except (OSError, HTTPException):
            pass  # told below, unless it was wanted
        finally:
            if not finished:
                self.close()
        if not finished and not self._cancelled:
            raise TreelineError(_LOST)
        if not finished:
            yield CompletionChunk("", (), "cancelled")

    def cancel(self) -> None:
        """End the stream in progress: its last chunk says "cancelled", and the daemon stops working on it."""
        self._cancelled = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it has ended by itself

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, body: bytes) -> HTTPResponse:
        """Send a request until it is answered, by another daemon if the first one ends meanwhile."""
        lost = 0
        while True:
            try:
                if self._cancelled:
                    raise HTTPException
                if self._connection is None:
                    self._address = self._daemon.address()
                    self._connection = Connection(self._address)
                self._connection.request("POST", "/complete", body, _HEADERS | self._address.headers())
                response = self._connection.getresponse()
            except (OSError, HTTPException):
                self.close()
                lost += 1
                if self._cancelled or lost > _ATTEMPTS:
                    raise
                continue
            if response.status == 200:
                return response
            refusal = response.read()
            self.close()
            self._daemon.refused(self._address, response.status, refusal, lambda: self._cancelled)


class AsyncClient:
    """The same for asyncio, any number of requests at a time. Cancelling the task that iterates cancels the work."""

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        name: str = "",
        environment: Mapping[str, str] | None = None,
        progress: LoadProgress | None = None,
    ) -> None:
        """See Client. `progress` is called in another thread. Raises TreelineError without httpx (extra `server`)."""
        self._daemon = _Daemon(config or EngineConfig(), environment, progress)
        self._name = name
        self._address: Address | None = None
        self._http: httpx.AsyncClient | None = None

    async def complete(self, request: CompletionRequest, document: str = "") -> CompletionChunk:
        """Return the whole completion. Raises TreelineError."""
        return whole([chunk async for chunk in self.stream(request, document)])

    async def stream(self, request: CompletionRequest, document: str = "") -> AsyncGenerator[CompletionChunk]:
        """Yield verified text as it comes. Raises TreelineError."""
        import asyncio

        import httpx

        body = encode_request(request, self._name, document)
        lost, answered = 0, False
        while True:
            address = await asyncio.to_thread(self._daemon.address)
            try:
                async with self._session(address).stream("POST", "/complete", content=body) as response:
                    if response.status_code == 200:
                        async for line in response.aiter_lines():
                            answered = True
                            chunk = decode_chunk(line.encode())
                            yield chunk
                            if chunk.finish_reason is not None:
                                return
                        raise TreelineError(_LOST)
                    refusal = await response.aread()
            except httpx.TransportError:
                lost += 1
                if answered or lost > _ATTEMPTS:
                    raise TreelineError(_LOST) from None
                continue
            await asyncio.to_thread(self._daemon.refused, address, response.status_code, refusal)

    def prepare(self) -> None:
        """Import what is slow to import; for a thread, before the first request. Raises TreelineError without httpx."""
        try:
            import httpx  # noqa: F401
        except ImportError:
            raise TreelineError("this client needs the extra `server`: pip install 'treeline[server]'") from None

    async def connect(self) -> None:
        """Start the daemon where there is none, and wait until its model is loaded. Raises TreelineError if it fails."""
        import asyncio

        stop = False
        try:
            await asyncio.to_thread(self._daemon.connect, lambda: stop)
        finally:
            stop = True

    async def restart(self) -> None:
        """End the daemon, whoever else uses it; `connect`, or the next request, starts another."""
        import asyncio

        await asyncio.to_thread(self._daemon.end)

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _session(self, address: Address) -> httpx.AsyncClient:
        """Return the pool of connections to `address`, which changes only where daemons listen on ports."""
        import httpx

        if self._http is None or address != self._address:
            transport = httpx.AsyncHTTPTransport(uds=address.path or None)
            base = "http://treeline" if address.path else f"http://127.0.0.1:{address.port}"
            headers = _HEADERS | address.headers()
            self._http = httpx.AsyncClient(transport=transport, base_url=base, headers=headers, timeout=None)
            self._address = address
        return self._http


def whole(chunks: Sequence[CompletionChunk]) -> CompletionChunk:
    """Join the chunks of a completion into one."""
    return CompletionChunk(
        "".join(chunk.text for chunk in chunks),
        tuple(token for chunk in chunks for token in chunk.tokens),
        chunks[-1].finish_reason,
        chunks[-1].stats,
        tuple(each for chunk in chunks for each in chunk.logprobs),
        tuple(each for chunk in chunks for each in chunk.branches),
    )
