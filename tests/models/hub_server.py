"""A stand-in for the Hugging Face hub's HTTP interface, as far as a download asks for it, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the hub holds, what goes wrong there, and what it was asked for."""

    repositories: dict[str, dict[str, bytes]]
    token: str | None = None
    gated: bool = False
    status: int | None = None  # answered to everything
    break_after: int | None = None  # bytes of a large file, then the connection is cut, every time
    ranges: bool = True
    damage: str = ""  # the name of a file that arrives with other bytes
    gets: list[tuple[str, str]] = field(default_factory=list)  # path, Range
    leaked: bool = False  # whether the storage was sent the token
    url: str = ""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve it on a free port of this machine."""

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Routes: the model's description, its tree, files by name, large files by hash where the former redirects to."""

    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self.state.gets.append((self.path, self.headers.get("Range", "")))
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        hub = self.state
        path = urlsplit(self.path).path
        if hub.status is not None:
            return self._send(hub.status, b"{}", head)
        if path.startswith("/lfs/"):
            hub.leaked |= "Authorization" in self.headers
            return self._large(path.removeprefix("/lfs/"), head)
        api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models" if api else "").strip("/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        files = hub.repositories.get(name)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._send(401, b"{}", head, {"X-Error-Code": "GatedRepo" if hub.gated else "RepoNotFound"})
        if files is None:
            return self._send(404, b"{}", head, {"X-Error-Code": "RepoNotFound"})
        if api and rest[:1] == ["tree"]:
            return self._send(200, json.dumps([_entry(*each) for each in files.items()]).encode(), head)
        if api:
            listed = [_sibling(*each) for each in files.items()]
            return self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": listed}).encode(), head)
        return self._file(files, "/".join(rest[2:]), head)

    def _file(self, files: dict[str, bytes], name: str, head: bool) -> None:
        content = files.get(name)
        if content is None:
            return self._send(404, b"", head, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{blob_id(content)}"'}
        if is_lfs(name):
            digest = sha256(content)
            headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            storage = self.state.url.replace("127.0.0.1", "localhost")  # another host, as the hub's storage is
            headers |= {"Location": f"{storage}/lfs/{digest}"}
            return self._send(302, b"", head, headers)
        return self._send(200, self._damaged(name, content), head, headers)

    def _large(self, digest: str, head: bool) -> None:
        everything = {sha256(c): (n, c) for files in self.state.repositories.values() for n, c in files.items()}
        name, content = everything[digest]
        content = self._damaged(name, content)
        asked = self.headers.get("Range", "")
        if not asked or not self.state.ranges:
            return self._send(200, content, head, cut=self.state.break_after)
        start = int(asked.removeprefix("bytes=").partition("-")[0])
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        return self._send(206, content[start:], head, headers, cut=self.state.break_after)

    def _damaged(self, name: str, content: bytes) -> bytes:
        return bytes([content[0] ^ 1]) + content[1:] if name == self.state.damage else content

    def _send(
        self, status: int, body: bytes, head: bool, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if head:
            return
        if cut is not None and cut < len(body):
            self.wfile.write(body[:cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(body)


def _sibling(name: str, content: bytes) -> dict[str, object]:
    lfs = {"lfs": {"sha256": sha256(content), "size": len(content), "pointerSize": 134}} if is_lfs(name) else {}
    return {"rfilename": name, "size": len(content), "blobId": blob_id(content), **lfs}


def _entry(name: str, content: bytes) -> dict[str, object]:
    lfs = {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 134}} if is_lfs(name) else {}
    return {"type": "file", "path": name, "size": len(content), "oid": blob_id(content), **lfs}
