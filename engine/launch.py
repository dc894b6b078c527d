"""Finding the daemon, starting it, asking after it, stopping it. Nothing slow is imported here."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import cast

from engine.config import REACHING, EngineConfig
from engine.errors import Cancelled, TreelineError
from engine.extras import installing
from engine.runtime import DaemonFiles, absolute, daemon_files, read_address, runtime_directory

START_SECONDS = 60.0  # until a started daemon can be connected to; loading comes after that
STOP_SECONDS = 15.0
POLL_SECONDS = 0.02  # between two looks
_RETRY_SECONDS = 0.2
_FOLDERS = ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "TREELINE_CACHE")  # in the environment

_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from engine.server.daemon import main; main(sys.argv[2])"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon listens: a Unix socket, or a loopback port that wants `token`."""

    path: str = ""
    port: int = 0
    token: str = ""

    def connect(self) -> socket.socket:
        """Connect. Raises OSError where nothing listens."""
        if not self.path:
            return socket.create_connection(("127.0.0.1", self.port))
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.connect(self.path)
        except OSError:
            connected.close()
            raise
        return connected

    def headers(self) -> dict[str, str]:
        """Return what every request needs."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


class Connection(HTTPConnection):
    """An HTTP connection to a daemon."""

    def __init__(self, address: Address) -> None:
        super().__init__("treeline")
        self.address = address

    def connect(self) -> None:
        """See HTTPConnection."""
        self.sock = self.address.connect()


def address_of(files: DaemonFiles) -> Address | None:
    """Return where the daemon of `files` would listen; None if it has not said so."""
    if files.socket_fits():
        return Address(path=str(files.socket))
    content = read_address(files)
    port, token = content.get("port"), content.get("token")
    return Address(port=port, token=token) if isinstance(port, int) and isinstance(token, str) else None


def listening(files: DaemonFiles) -> Address | None:
    """Return the daemon's address if it can be connected to.

    A port may be another program's by now, which nothing must be sent to: only the lock says that it is a daemon's.
    """
    address = address_of(files)
    try:
        if address is not None and (address.path or _locked(files)):
            address.connect().close()
            return address
    except OSError:
        pass
    return None


def can_serve() -> bool:
    """Say whether what a daemon needs is installed (the extra `server`)."""
    return all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn", "pydantic"))


def ensure(
    config: EngineConfig, environment: Mapping[str, str], cancelled: Callable[[], bool] = lambda: False
) -> Address:
    """Return the address of the daemon that serves `config`, after starting it where there is none.

    Any number of clients may do so at once: one daemon stays. Raises Cancelled, and TreelineError saying why it
    does not start.
    """
    steps = ensuring(config, environment)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value
        if cancelled():
            steps.close()
            raise Cancelled
        time.sleep(POLL_SECONDS)


def ensuring(config: EngineConfig, environment: Mapping[str, str]) -> Generator[None, None, Address]:
    """Do what `ensure` does, and yield where it would wait for POLL_SECONDS."""
    files = daemon_files(config, environment)
    started: _Start | None = None
    late = time.monotonic() + START_SECONDS
    try:
        while (address := listening(files)) is None:
            if time.monotonic() > late:
                raise TreelineError(f"the engine did not start within {START_SECONDS:.0f} s: see {files.log}")
            if started is None or started.ended(files):
                started = _Start(config, elsewhere(environment, files))
            yield
        return address
    finally:
        if started:
            started.close()


def elsewhere(environment: Mapping[str, str], files: DaemonFiles) -> dict[str, str]:
    """Return the environment for a process in another folder."""
    folders = {name: os.path.abspath(environment[name]) for name in _FOLDERS if environment.get(name)}  # noqa: PTH100
    return dict(environment) | folders | {"TREELINE_RUNTIME_DIR": str(files.directory.resolve())}


class _Start:
    """A daemon that is starting. Its standard error stays open until it listens or gives up."""

    def __init__(self, config: EngineConfig, environment: Mapping[str, str]) -> None:
        if not can_serve():
            raise TreelineError(f"the daemon needs the extra `server`, or --no-daemon: {installing('server')}")
        idle = None if config.idle_minutes is None else 60.0 * config.idle_minutes
        # Every user of the machine can read the command line: nothing in it that only clients need, a key least of all.
        settings = {key: value for key, value in asdict(absolute(config)).items() if key not in REACHING}
        given = json.dumps({"config": settings, "idle_seconds": idle})
        root = str(Path(__file__).resolve().parents[1])
        self._launcher = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, root, given],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._launcher.stderr is not None
        self._errors = self._launcher.stderr
        os.set_blocking(self._errors.fileno(), False)
        self._said = b""
        self._over: float | None = None

    def ended(self, files: DaemonFiles) -> bool:
        """Say whether it has given up in favour of another, a while ago. Raises TreelineError if it has failed."""
        self._launcher.poll()  # it forks and ends: no zombie is to stay
        if self._over is None:
            try:
                part = os.read(self._errors.fileno(), 65536)
            except BlockingIOError:
                return False
            if part:
                self._said += part
                return False
            self.close()
            self._over = time.monotonic()
        if self._said:
            lines = self._said.decode("utf-8", "replace").strip().splitlines()
            raise TreelineError(f"the engine did not start: {lines[-1]} (more may be in {files.log})")
        return time.monotonic() - self._over > _RETRY_SECONDS

    def close(self) -> None:
        """Listen to it no longer."""
        self._errors.close()
        self._launcher.poll()


# --- all daemons of the user -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Status:
    """A running daemon. `health` is what it says of itself, None if it does not answer."""

    pid: int
    files: DaemonFiles
    health: Mapping[str, object] | None


def running(environment: Mapping[str, str]) -> Iterator[Status]:
    """Find the daemons of this user that can be connected to."""
    for path in sorted(runtime_directory(environment).glob("engine-*.json")):
        files = DaemonFiles(path.parent, path.stem)
        pid = read_address(files).get("pid")
        address = listening(files)
        if address and isinstance(pid, int):
            health = ask_health(address)
            own = (
                health.get("pid", pid) if health else pid
            )  # the file may be a dead daemon's, its pid another program's
            yield Status(own if isinstance(own, int) else pid, files, health)


def ask_health(address: Address, seconds: float = 5.0) -> Mapping[str, object] | None:
    """Return what the daemon says of itself, or None if it says nothing within `seconds`."""
    connection = Connection(address)
    try:
        connection.connect()
        connection.sock.settimeout(seconds)
        connection.request("GET", "/health", headers=address.headers())
        health: object = json.loads(connection.getresponse().read())
    except (OSError, ValueError, HTTPException):
        return None
    else:
        return cast("dict[str, object]", health) if isinstance(health, dict) else None
    finally:
        connection.close()


def stop(pid: int, files: DaemonFiles) -> None:
    """End a daemon and wait until it is gone; what it is answering ends first. Raises TreelineError if it stays."""
    for _ in stopping(pid, files):
        time.sleep(POLL_SECONDS)


def stopping(pid: int, files: DaemonFiles) -> Generator[None]:
    """Do what `stop` does, and yield where it would wait for POLL_SECONDS."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        except PermissionError:
            raise TreelineError(f"process {pid} is not yours to stop") from None
        late = time.monotonic() + STOP_SECONDS
        while time.monotonic() < late:
            if not _locked(files):
                return
            yield
    raise TreelineError(f"process {pid} does not end: see {files.log}")


def _locked(files: DaemonFiles) -> bool:
    """Say whether a daemon holds its lock. The process table may list it for longer."""
    with files.lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
