"""A server with an OpenAI-compatible API that says what a test tells it to, and remembers what it was asked.

It stands for an engine where a test needs one that is slow, silent or broken, or has to see what the engine is told.
"""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.lsp_server.rpc import PATIENCE


@dataclass(slots=True)
class Asked:
    """One request. `gone` is set when its connection ended before the answer did; set `go_on` to end a pause."""

    prompt: str
    suffix: str
    gone: threading.Event = field(default_factory=threading.Event)
    paused: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    _wake: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)

    def go_on(self) -> None:
        """End the pause."""
        self._wake[0].send(b".")

    def pause(self, connection: socket.socket) -> bool:
        """Wait until told to go on; False when the client has gone meanwhile."""
        self.paused.set()
        readable, _, _ = select.select([connection, self._wake[1]], [], [], PATIENCE)
        if connection in readable:
            self.gone.set()
            return False
        self._wake[1].recv(1)
        return True

    def close(self) -> None:
        for end in self._wake:
            end.close()


class Pause:
    """In a script: nothing comes until the test says so. `before_headers`: not even the status of the answer."""


@dataclass(frozen=True, slots=True)
class Failure:
    """In a script: a refusal. `{prompt}` in its message quotes what was asked."""

    status: int = 500
    message: str = "out of order"


Script = Callable[[Asked], list[str | Pause | Failure]]


class ScriptedEngine:
    """`script` says what to answer. `asked` has every request in the order of arrival."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.asked: list[Asked] = []
        self.script: Script = lambda _: ["text"]
        self._news = threading.Condition()

    def says(self, *answer: str | Pause | Failure) -> None:
        """Give the same answer to every request from now on, and forget what was asked before."""
        self.asked = []
        self.script = lambda _: list(answer)

    def arrived(self, request: Asked) -> None:
        with self._news:
            self.asked.append(request)
            self._news.notify_all()

    def wait(self, marker: str = "", count: int = 1) -> Asked:
        """Wait for the request of that number whose prompt holds `marker`."""
        with self._news:
            while len(found := [each for each in self.asked if marker in each.prompt]) < count:
                assert self._news.wait(PATIENCE), f"only {len(found)} requests came"
            return found[count - 1]

    @property
    def prompts(self) -> str:
        """Everything that was ever sent."""
        return "\n".join(each.prompt + each.suffix for each in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: ScriptedEngine

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(body["prompt"], body.get("suffix", ""))
        self.engine.arrived(asked)
        self.close_connection = True
        try:
            self._answer(asked)
        except OSError:
            asked.gone.set()
        asked.answered.set()
        asked.close()

    def _answer(self, asked: Asked) -> None:
        script = self.engine.script(asked)
        if script and isinstance(script[0], Failure):
            message = script[0].message.replace("{prompt}", asked.prompt)
            self._send(script[0].status, "application/json", json.dumps({"error": {"message": message}}).encode())
            return
        begun = False
        for step in script:
            if isinstance(step, Pause):
                if not asked.pause(self.connection):
                    return
                continue
            if not begun:
                self._send(200, "text/event-stream")
                begun = True
            self.wfile.write(
                b"data: " + json.dumps({"choices": [{"text": step, "finish_reason": None}]}).encode() + b"\n\n"
            )
        if not begun:
            self._send(200, "text/event-stream")
        self.wfile.write(b'data: {"choices": [{"text": "", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n')

    def _send(self, status: int, kind: str, body: bytes | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        if body is not None:
            self.wfile.write(body)


@contextmanager
def scripted_engine(folder: Path) -> Iterator[ScriptedEngine]:
    """Run such an engine, and write the configuration that names it."""
    config = folder / "treeline.toml"
    engine = ScriptedEngine(config)
    handler = type("Handler", (_Handler,), {"engine": engine})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    config.write_text(f'url = "http://127.0.0.1:{server.server_port}/v1"\nmodel = "scripted"\n')
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
