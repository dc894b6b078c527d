r"""Clients of the engine in the background: connect to it or start it, complete, stream, cancel.

    with Client() as client:
        for chunk in client.stream(CompletionRequest(prefix="def area(width, height):\n    return ")):
            print(chunk.text, end="")

`Client` needs the standard library only and is quick to import; `AsyncClient` needs httpx.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Mapping
from http.client import HTTPException, HTTPResponse
from types import TracebackType

from engine.asking import HEADERS, LOST, WAIT_SECONDS, Daemon, LoadProgress, Losses, advice, whole
from engine.async_client import AsyncClient
from engine.config import EngineConfig
from engine.errors import Cancelled, TreelineError
from engine.launch import Address, Connection, ask_health, ensure, stop
from engine.request import CompletionChunk, CompletionRequest
from engine.wire import decode_chunk, encode_request

__all__ = ["AsyncClient", "Client"]


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
        self._daemon = Daemon(config or EngineConfig(), environment, progress)
        self._name = name
        self._connection: Connection | None = None
        self._cancelled = False

    def complete(self, request: CompletionRequest, document: str = "") -> CompletionChunk:
        """Return the whole completion. Raises TreelineError."""
        return whole(list(self.stream(request, document)))

    def stream(self, request: CompletionRequest, document: str = "") -> Generator[CompletionChunk]:
        """Yield verified text as it comes. Closing the generator cancels the work. Raises TreelineError."""
        self._cancelled = False  # now, not when the first piece is asked for: `cancel` may come before that
        return self._stream(request, document)

    def _stream(self, request: CompletionRequest, document: str) -> Generator[CompletionChunk]:
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
            raise TreelineError(LOST)
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
        losses = Losses(self._daemon)
        while True:
            try:
                connection = self._connected()
                connection.request("POST", "/complete", body, HEADERS | connection.address.headers())
                response = connection.getresponse()
            except (OSError, HTTPException):
                self.close()
                if self._cancelled:
                    raise
                losses.add()
                continue
            if response.status == 200:
                return response
            refusal = response.read()
            self.close()
            self._heed(advice(response.status, refusal), connection.address, losses)

    def _connected(self) -> Connection:
        """Return the open connection, or another. Raises HTTPException when cancelled, and OSError."""
        if self._connection is None:
            self._connection = Connection(self._address())
            self._connection.connect()
        if self._cancelled:  # looked at when there is a connection: from here on, `cancel` ends that
            raise HTTPException
        return self._connection

    def _address(self) -> Address:
        try:
            return ensure(self._daemon.config, self._daemon.environment, lambda: self._cancelled)
        except Cancelled:
            raise HTTPException from None

    def _heed(self, advice: str, address: Address, losses: Losses) -> None:
        """Do what a refusal asks for. Raises TreelineError when the daemon has ended too often."""
        if advice == "load":
            while self._daemon.still_loading(health := ask_health(address, seconds=60.0)) and not self._cancelled:
                time.sleep(WAIT_SECONDS)
            if health is None and not self._cancelled:
                losses.add(loading=True)
            return
        if advice == "replace":
            pid = (ask_health(address) or {}).get("pid")
            if isinstance(pid, int):
                stop(pid, self._daemon.files)
                return
        time.sleep(WAIT_SECONDS)
