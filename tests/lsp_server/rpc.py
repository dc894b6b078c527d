"""A client that speaks to a real language server, message by message, and sees every byte of the answers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

PATIENCE = 30.0  # seconds until a test gives up: never how long something takes
Message = dict[str, Any]
REFUSED = object()  # in place of an answer to a request of the server

CAPABILITIES: Message = {
    "general": {"positionEncodings": ["utf-16"]},
    "textDocument": {"inlineCompletion": {"dynamicRegistration": False}},
}


class Client:
    """One end of a session. Answers the server's own requests from `answers`, by method; others with null."""

    def __init__(self, process: subprocess.Popen[bytes], source: BinaryIO, sink: BinaryIO) -> None:
        self.process = process
        self.answers: dict[str, Callable[[Any], Any]] = {}
        self.received: list[Message] = []
        self.log: list[str] = []
        self._source = source
        self._sink = sink
        self._news = threading.Condition()
        self._number = 0
        self._closed = False
        self._broken: Exception | None = None
        self._hang_up = sink.close
        self._readers = [threading.Thread(target=self._read, daemon=True)]
        if process.stderr is not None:
            self._readers.append(threading.Thread(target=self._read_log, daemon=True))
        for reader in self._readers:
            reader.start()

    # --- sending -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes, whatever they are."""
        self._sink.write(data)
        self._sink.flush()

    def send(self, *messages: Any) -> None:
        """Send messages in one piece."""
        self.write(b"".join(frame(message) for message in messages))

    def notify(self, method: str, params: Any = None) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def begin(self, method: str, params: Any = None) -> int:
        """Send a request and return its id."""
        message = self.make(method, params)
        self.send(message)
        return message["id"]

    def make(self, method: str, params: Any = None) -> Message:
        """Return a request with an id of its own, to be sent by hand."""
        self._number += 1
        return {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}

    def request(self, method: str, params: Any = None) -> Any:
        """Send a request and return its result."""
        answer = self.wait(self.begin(method, params))
        assert "error" not in answer, answer
        return answer["result"]

    def error(self, method: str, params: Any = None) -> int:
        """Send a request and return the code of the error that answers it."""
        return self.wait(self.begin(method, params))["error"]["code"]

    # --- receiving ---------------------------------------------------------------------------------------------------

    def wait(self, number: int | str | None) -> Message:
        """Wait for the answer to a request."""
        return self.until(lambda message: "method" not in message and message.get("id") == number)

    def until(self, wanted: Callable[[Message], bool]) -> Message:
        """Wait for a message, and take it out of those received."""
        with self._news:
            while True:
                for message in self.received:
                    if wanted(message):
                        self.received.remove(message)
                        return message
                assert not self._closed, f"the server has closed the connection; its log: {self.log}"
                assert self._news.wait(PATIENCE), f"nothing came; received: {self.received}; log: {self.log}"

    def notified(self, method: str, check: Callable[[Any], bool] = lambda _: True) -> Any:
        """Wait for a notification and return its parameters."""
        return self.until(lambda each: each.get("method") == method and check(each["params"]))["params"]

    def seen(self, method: str) -> list[Any]:
        """The parameters of all such notifications so far that nobody waited for."""
        with self._news:
            return [each["params"] for each in self.received if each.get("method") == method]

    def logged(self, pattern: str) -> str:
        """Wait for a line of the log."""
        with self._news:
            while not (found := [line for line in self.log if re.search(pattern, line)]):
                assert self._news.wait(PATIENCE), f"no {pattern} in the log: {self.log}"
            return found[0]

    # --- the end -----------------------------------------------------------------------------------------------------

    def close_input(self) -> None:
        """Close the stream to the server, and nothing else."""
        self._hang_up()

    def finish(self) -> int:
        """Wait for the process to end; return its status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        if isinstance(self._broken, AssertionError):
            raise self._broken  # something else than messages came
        return status

    def _read(self) -> None:
        try:
            while (body := read_frame(self._source)) is not None:
                self._take(json.loads(body))
        except (AssertionError, OSError, ValueError) as error:
            self._broken = error
        finally:
            with self._news:
                self._closed = True
                self._news.notify_all()

    def _take(self, message: Message) -> None:
        if "method" in message and "id" in message:
            answer = self.answers.get(message["method"], lambda _: None)(message.get("params"))
            refused = {"error": {"code": -32601, "message": "unknown"}}
            self.send({"jsonrpc": "2.0", "id": message["id"]} | (refused if answer is REFUSED else {"result": answer}))
        with self._news:
            self.received.append(message)
            self._news.notify_all()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.log.append(line.decode(errors="replace").rstrip("\n"))
                self._news.notify_all()


def frame(message: Any) -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def read_frame(source: BinaryIO) -> bytes | None:
    """Read one message, strictly: any other byte on the stream is an error."""
    header = source.readline()
    if not header:
        return None
    length = re.fullmatch(rb"Content-Length: (\d+)\r\n", header)
    assert length, f"not a header: {header!r}"
    while (line := source.readline()) != b"\r\n":
        assert re.fullmatch(rb"[A-Za-z-]+: [^\r\n]*\r\n", line), f"not a header: {line!r}"
    return source.read(int(length[1]))


@contextmanager
def launch(environment: dict[str, str], arguments: Sequence[str] = (), transport: str = "stdio") -> Iterator[Client]:
    """Run a language server, and connect to it by standard streams or "tcp"."""
    command = [sys.executable, "-I", "-m", "lsp_server", *arguments]
    pipe = subprocess.PIPE
    if transport == "stdio":
        process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin is not None
        assert process.stdout is not None
        client = Client(process, cast("BinaryIO", process.stdout), cast("BinaryIO", process.stdin))
    else:
        process, host, port = listening(environment, arguments, "--tcp")
        client = connect(process, host, port)
    try:
        yield client
    finally:
        process.kill()
        client.finish()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def connect(process: subprocess.Popen[bytes], host: str, port: int) -> Client:
    """Connect to a server that listens."""
    connection = socket.create_connection((host, port))
    stream = connection.makefile("rwb")
    client = Client(process, stream, stream)  # pyright: ignore[reportArgumentType] - a BufferedRWPair
    client._hang_up = lambda: connection.shutdown(socket.SHUT_WR)
    return client


def listening(
    environment: dict[str, str], arguments: Sequence[str], flag: str
) -> tuple[subprocess.Popen[bytes], str, int]:
    """Start a server that listens on a free port."""
    command = [sys.executable, "-I", "-m", "lsp_server", flag, "127.0.0.1:0", *arguments]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    found = re.search(r"listening on (\S+):(\d+)", line)
    assert found, line + process.stderr.read().decode()
    return process, found[1], int(found[2])


def initialize(
    client: Client, folder: Path | None = None, capabilities: Message = CAPABILITIES, **settings: Any
) -> Any:
    """Begin a session in `folder`; return the result of initialize. By default nothing is asked for by itself."""
    quiet = {"debounceMs": 0, "prefetch": False, "workspaceContext": folder is not None}
    params: Message = {
        "processId": None,
        "rootUri": folder.as_uri() if folder else None,
        "capabilities": capabilities,
        "initializationOptions": quiet | settings,
    }
    if folder is not None:
        params["workspaceFolders"] = [{"uri": folder.as_uri(), "name": "work"}]
    result = client.request("initialize", params)
    client.notify("initialized", {})
    return result
