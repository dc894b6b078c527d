"""Stands between an editor and the language server, and writes down every message: one JSON object a line.

    python recorder.py LOG SERVER [ARGUMENT ...]

A message is written before it is passed on, as {"from": "client" | "server", "at": seconds, "message": {...}}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any, BinaryIO, cast


def read(stream: BinaryIO) -> tuple[bytes, dict[str, Any]] | None:
    """Return one message as it came and as it is meant, or None at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return None
        head += line
    length = next(int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length"))
    body = stream.read(length)
    return head + body, json.loads(body)


def relay(who: str, source: BinaryIO, sink: BinaryIO, log: int) -> None:
    """Pass on all messages from one side."""
    while (found := read(source)) is not None:
        raw, message = found
        os.write(log, (json.dumps({"from": who, "at": time.time(), "message": message}) + "\n").encode())
        sink.write(raw)
        sink.flush()
    sink.close()


def main() -> int:
    """Run the server, and end as it does."""
    log, *command = sys.argv[1:]
    if "--version" in command:
        return subprocess.run(command, check=False).returncode
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    os.write(
        file, (json.dumps({"from": "recorder", "at": time.time(), "message": {"pid": server.pid}}) + "\n").encode()
    )
    client: tuple[Any, ...] = ("client", sys.stdin.buffer, server.stdin, file)
    threading.Thread(target=relay, args=client, daemon=True).start()
    relay("server", cast("BinaryIO", server.stdout), sys.stdout.buffer, file)
    return server.wait()


if __name__ == "__main__":
    os._exit(main())  # at once: a thread may be waiting for the editor
