"""Clients that ask for nothing, or take nothing: their connections end. The real server, with times made short."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.request import CompletionChunk, CompletionRequest, CompletionStats
from engine.server import service
from engine.server.app import Service, create_app
from engine.server.metrics import Metrics
from engine.server.scheduler import Scheduler

STATS = CompletionStats(10, 4, 3, 2, 1.5, 8, 5.0, 6.0, 30.0, 200.0, 1 << 20)
WAIT = 30  # seconds until a test gives up on what it waits for


class Talker:
    """An engine that never stops saying the same long word, and tells when it has been stopped."""

    context = 100

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def complete(self, request: CompletionRequest, cancelled: Callable[[], bool]) -> Iterator[CompletionChunk]:
        while not cancelled():
            yield CompletionChunk(1000 * "x", (1,))
            threading.Event().wait(0.001)
        self.stopped.set()
        yield CompletionChunk("", (), "cancelled", STATS)

    def reset(self) -> None:
        raise AssertionError


class Running:
    """A service in a thread of its own, at a Unix socket and a port."""

    def __init__(self, folder: Path) -> None:
        self.engine = Talker()
        self.path = str(folder / "s")
        own = socket.socket(socket.AF_UNIX)
        own.bind(self.path)
        own.listen()
        port = socket.create_server(("127.0.0.1", 0))
        self.address = port.getsockname()
        self._sockets = [own, port]
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        metrics = Metrics()
        scheduler = Scheduler(lambda _: self.engine, metrics)
        self.server = service._Server(scheduler, create_app(Service(scheduler, metrics, "talker"), "token"))
        scheduler.start()
        self._started.set()
        await self.server.serve(sockets=self._sockets)
        scheduler.stop()
        scheduler.join(WAIT)

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._started.wait(WAIT)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(WAIT)
        assert not self._thread.is_alive()

    def connect(self, tcp: bool = False) -> socket.socket:
        connected = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        connected.settimeout(WAIT)
        connected.connect(self.address if tcp else self.path)
        return connected


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(service, "FIRST_REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(service, "NEXT_REQUEST_SECONDS", 2.0)
    monkeypatch.setattr(service, "SEND_SECONDS", 0.2)
    monkeypatch.setattr(service, "MAX_CONNECTIONS", 3)
    with Running(tmp_path) as made:
        yield made


def ended(connected: socket.socket) -> bool:
    """Wait until the server closes a connection, reading what it sends."""
    try:
        while connected.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def health(connected: socket.socket) -> bool:
    """Ask something that is answered at once."""
    connected.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    seen = b""
    while b'"talker"' not in seen:
        part = connected.recv(65536)
        if not part:
            return False
        seen += part
    return True


@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nHost:"], ids=["nothing", "half a request"])
@pytest.mark.parametrize("asked", [False, True], ids=["at first", "after an answer"])
def test_a_connection_that_asks_for_nothing_ends(running: Running, said: bytes, asked: bool) -> None:
    with running.connect() as connected:
        assert not asked or health(connected)
        connected.sendall(said)
        assert ended(connected)


def test_one_that_goes_on_asking_stays(running: Running) -> None:
    with running.connect() as connected:
        for _ in range(3):
            assert health(connected)
            with running.connect() as other:
                assert ended(other)  # it came later, and asked for nothing


def test_a_reader_that_does_not_read_is_cut_off_and_its_work_ends(running: Running) -> None:
    body = json.dumps({"request": {"prefix": "x"}}).encode()
    with running.connect() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(b"POST /complete HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert running.engine.stopped.wait(WAIT)
        assert ended(lazy)


def test_too_many_by_tcp_leave_the_users_own_clients_in(running: Running) -> None:
    kept = [running.connect(tcp=True) for _ in range(3)]
    assert all(health(each) for each in kept)
    with running.connect(tcp=True) as refused:
        assert ended(refused)
    with running.connect() as own:
        assert health(own)
    for each in kept:
        each.close()
