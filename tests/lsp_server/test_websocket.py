"""The same messages in frames of a WebSocket."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.lsp_server.rpc import CAPABILITIES, PATIENCE, listening
from tests.lsp_server.scripted_engine import ScriptedEngine

INITIALIZE = {"processId": None, "rootUri": None, "capabilities": CAPABILITIES}
URI = "file:///nowhere/socket.py"


class Server:
    """A server that listens, and one socket to it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process, host, port = listening(environment, [], "--ws")
        self.address = f"ws://{host}:{port}"

    def connect(self, origin: Any = None) -> ClientConnection:
        return connect(self.address, origin=origin, max_size=None, open_timeout=PATIENCE)

    def finish(self) -> int:
        status = self.process.wait(PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@pytest.fixture
def server(environment: dict[str, str], scripted: ScriptedEngine) -> Iterator[Server]:
    server = Server(environment)
    try:
        yield server
    finally:
        server.process.kill()
        server.finish()


def send(socket: ClientConnection, method: str, params: Any = None, number: int | None = None) -> None:
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    socket.send(json.dumps(message if number is None else message | {"id": number}))


def answer(socket: ClientConnection, number: int | None) -> Any:
    """Wait for an answer; every frame must be text."""
    while True:
        data = socket.recv(PATIENCE)
        assert isinstance(data, str)
        message = json.loads(data)
        if "method" not in message and message.get("id") == number:
            return message


def ready(socket: ClientConnection) -> None:
    send(socket, "initialize", INITIALIZE, 1)
    assert answer(socket, 1)["result"]["capabilities"]["inlineCompletionProvider"] == {}
    send(socket, "initialized", {})
    while json.loads(socket.recv(PATIENCE)).get("params", {}).get("state") != "ready":
        pass


def test_a_session(server: Server, scripted: ScriptedEngine) -> None:
    with server.connect() as socket:
        socket.send("{")
        assert answer(socket, None)["error"]["code"] == -32700
        ready(socket)
        text = "é" * 3_000_000 + "\nlast = "  # longer than frames may be by default
        document = {"uri": URI, "languageId": "python", "version": 1, "text": text}
        send(socket, "textDocument/didOpen", {"textDocument": document})
        place = {"textDocument": {"uri": URI}, "position": {"line": 1, "character": 7}}
        send(socket, "textDocument/inlineCompletion", place | {"context": {"triggerKind": 1}}, 2)
        assert answer(socket, 2)["result"]["items"][0]["insertText"] == "text"
        assert scripted.asked[0].prompt == text
        send(socket, "shutdown", None, 3)
        send(socket, "exit")
        assert answer(socket, 3)["result"] is None
        with pytest.raises(ConnectionClosed):
            socket.recv(PATIENCE)
    assert server.finish() == 0


def test_the_end_of_the_connection_ends_the_process(server: Server) -> None:
    with server.connect() as socket:
        ready(socket)
    assert server.finish() == 1


def test_web_pages_may_not_connect_unless_they_are_local(server: Server) -> None:
    for stranger in ("https://example.org", "http://localhost.example.org", "null"):
        with pytest.raises(InvalidStatus):
            server.connect(stranger)
    with server.connect("http://localhost:3000") as socket:
        ready(socket)


def test_without_the_package_there_is_one_line(environment: dict[str, str]) -> None:
    import sys

    code = "import sys; sys.modules['websockets'] = None; from lsp_server.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--ws", "127.0.0.1:0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "pip install websockets" in done.stderr
