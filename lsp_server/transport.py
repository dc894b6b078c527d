"""How messages come and go: standard input and output, a TCP connection or a WebSocket. One editor each."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from engine.errors import TreelineError
from lsp_server.framing import Framing

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from lsp_server.protocol import Protocol

CHUNK = 1 << 16
CLOSE_SECONDS = 2.0
# Of web pages, only those of this machine may connect: any page in a browser could try.
LOCAL_PAGES = re.compile(r"(https?://(localhost|127\.0\.0\.1|\[::1\])|vscode-webview://[^/]*)(:\d+)?")

Read = Callable[[], Awaitable[bytes]]


async def serve_stdio(protocol: Protocol) -> None:
    """Serve the process that started this one, until it says so or closes the stream."""
    source, sink = _take_standard_streams()
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        data = b"."
        while data:
            try:
                data = os.read(source, CHUNK)
            except OSError:
                data = b""
            loop.call_soon_threadsafe(pieces.put_nowait, data)

    protocol.set_writer(_Pipe(sink, lambda: pieces.put_nowait(b"")))
    # A thread of its own, that nobody waits for at the end: it may be in the middle of a read that never returns.
    threading.Thread(target=read, name="standard input", daemon=True).start()
    await _session(protocol, pieces.get)


async def serve_tcp(protocol: Protocol, host: str, port: int) -> None:
    """Listen for one editor, and serve it."""
    first: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if first.done():
            writer.close()
        else:
            first.set_result((reader, writer))

    server = await _listen(asyncio.start_server(connected, host, port), host, port)
    reader, writer = await first
    server.close()

    async def read() -> bytes:
        try:
            return await reader.read(CHUNK)
        except OSError:
            return b""

    protocol.set_writer(writer)  # pyright: ignore[reportArgumentType] - as pygls does: nobody waits for its close
    await _session(protocol, read)
    writer.close()
    await _in_time(writer.wait_closed())


async def serve_ws(protocol: Protocol, host: str, port: int) -> None:
    """Listen for one editor that speaks WebSocket, one message a frame, and serve it."""
    try:
        from websockets.asyncio.server import serve
        from websockets.exceptions import ConnectionClosed
    except ImportError:
        raise TreelineError("--ws needs the package websockets: pip install websockets") from None
    first: asyncio.Future[ServerConnection] = asyncio.Future()
    ended = asyncio.Event()

    async def connected(socket: ServerConnection) -> None:
        if not first.done():
            first.set_result(socket)
            await ended.wait()

    # Any size: the first message of a session may hold a long document.
    serving = serve(connected, host, port, origins=[None, LOCAL_PAGES], max_size=None, compression=None)
    server = await _listen(serving, host, port)
    socket = await first
    server.close(close_connections=False)
    frames = _Frames(socket)
    protocol.set_writer(frames, include_headers=False)
    try:
        while not protocol.left:
            protocol.receive(await socket.recv(decode=False))
            await asyncio.sleep(0)
    except ConnectionClosed:
        pass
    await _in_time(frames.flush())
    ended.set()
    await _in_time(socket.close())


async def _session(protocol: Protocol, read: Read) -> None:
    """Handle all messages, until the client leaves or its stream ends."""
    framing = Framing()
    while data := await read():
        for body in framing.feed(data):
            protocol.receive(body)
            if protocol.left:
                return
            await asyncio.sleep(0)  # what was begun takes its first step before a message behind it can cancel it


async def _listen(starting: Awaitable[Any], host: str, port: int) -> Any:
    """Start to listen, and say where: port 0 stands for any that is free."""
    try:
        server = await starting
    except OSError as error:
        reason = error.strerror or "unknown address"
        raise TreelineError(f"cannot listen on {host}:{port} ({reason}): choose another address or port") from None
    address = next(iter(server.sockets)).getsockname()
    print(f"treeline-lsp: listening on {address[0]}:{address[1]}", file=sys.stderr, flush=True)
    return server


async def _in_time(closing: Awaitable[None]) -> None:
    """Wait for the last bytes to leave, but not for long."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await closing
    except (OSError, TimeoutError):
        pass


def _take_standard_streams() -> tuple[int, BinaryIO]:
    """Return standard input and output, and leave others in their place. Raises TreelineError where one is closed.

    What some library prints goes to standard error, and a child process that reads its input gets none of the editor's.
    """
    if sys.stdin is None or sys.stdout is None:
        raise TreelineError("standard input or output is closed: an editor starts this with both, or names --tcp")
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return source, os.fdopen(sink, "wb")


class _Pipe:
    """Writes to a pipe; calls `lost` when nobody reads it any more."""

    def __init__(self, sink: BinaryIO, lost: Callable[[], None]) -> None:
        self._sink = sink
        self._lost = lost

    def write(self, data: bytes) -> None:
        """See io_.Writer of pygls."""
        try:
            self._sink.write(data)
            self._sink.flush()
        except OSError:
            self._lost()

    def close(self) -> None:
        """See io_.Writer of pygls; the process ends instead."""


class _Frames:
    """Writes text frames, one after the other."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self._sending: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """See io_.Writer of pygls."""
        self._sending = asyncio.create_task(self._send(self._sending, data.decode()))

    def close(self) -> None:
        """See io_.Writer of pygls; serve_ws closes it instead."""

    async def flush(self) -> None:
        """Wait until everything has been sent."""
        if self._sending is not None:
            await self._sending

    async def _send(self, before: asyncio.Task[None] | None, text: str) -> None:
        from websockets.exceptions import ConnectionClosed

        if before is not None:
            await before
        try:
            await self._socket.send(text)
        except ConnectionClosed:
            return
