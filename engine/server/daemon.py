"""The process around the engine: one per user and configuration, started on demand or by hand, ended when idle."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import logging
import os
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from types import TracebackType
from typing import NoReturn

from engine import __version__
from engine.config import EngineConfig
from engine.errors import TreelineError
from engine.runtime import DaemonFiles, absolute, daemon_files

LOG_BYTES = 2**20  # of a log file, before it makes room for the next
ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What to serve and where. `idle_seconds` None: for ever. `host`, `port`: listen there too, to who has `token`."""

    config: EngineConfig
    idle_seconds: float | None = None
    host: str | None = None
    port: int | None = None
    token: str | None = None


class AlreadyRunning(Exception):  # noqa: N818 - for most callers it is good news
    """Another process serves this configuration."""


def main(specification: str) -> NoReturn:
    """Run a daemon that a client has asked for, as JSON: its settings and `idle_seconds`."""
    if os.fork():
        os._exit(0)  # the client waits for this one; the daemon is nobody's child
    given = json.loads(specification)
    with contextlib.suppress(AlreadyRunning):  # another client was faster
        try:
            serve(ServeOptions(EngineConfig(**given["config"]), given["idle_seconds"]), _detach)
        except (TreelineError, OSError) as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
    os._exit(0)  # nothing is left to tidy up, and libraries take their time with it


def _detach(_: str) -> None:
    """Let go of the client that started this, once there is something to connect to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def serve(options: ServeOptions, listening: Callable[[str], None]) -> None:
    """Serve until told to stop. `listening(text)` is called once clients can connect, with where.

    Raises AlreadyRunning, and TreelineError for an address that cannot be had or a model that cannot be loaded.
    """
    config = absolute(options.config)
    files = daemon_files(config, os.environ)
    with _locked(files), contextlib.ExitStack() as stack:
        stack.enter_context(_log_to(files))
        token = options.token or secrets.token_urlsafe(32)
        _remove(files)  # a dead daemon's: we hold the lock
        sockets = [_own_socket(files)]
        stack.callback(_remove, files)
        if options.host is not None and options.port is not None:
            sockets.append(listen(options.host, options.port))
        _write_address(files, config, sockets[0], token)
        sockets[0].listen(128)  # whoever can connect now finds the address that says whose this is
        where = " and ".join(_spelled(each) for each in sockets)
        logger.info("Treeline %s, process %d, serves %s at %s", __version__, os.getpid(), config.model, where)
        listening(where)
        from engine.server.scheduler import ENGINE_THREAD
        from engine.server.service import run  # slow to import, and clients wait to be let in

        error = run(config, sockets, token, options.idle_seconds)
        logger.info("ended")
    if error:
        raise TreelineError(error)
    if any(thread.name == ENGINE_THREAD for thread in threading.enumerate()):
        os._exit(0)  # told to end while it loads: libraries abort when the interpreter leaves under their threads


@contextlib.contextmanager
def _locked(files: DaemonFiles) -> Generator[None]:
    """Hold the lock for life: the system releases it however this process ends. Raises AlreadyRunning."""
    with files.lock.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning from None
        yield


def _own_socket(files: DaemonFiles) -> socket.socket:
    """Bind to where clients of this user look: a Unix socket, or a loopback port where its path would be too long."""
    if not files.socket_fits():
        return listen("127.0.0.1", 0)
    own = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        own.bind(str(files.socket))
    finally:
        os.umask(before)
    return own


def listen(host: str, port: int) -> socket.socket:
    """Listen on a TCP port. Raises TreelineError if it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TreelineError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from None


def is_loopback(host: str) -> bool:
    """Say whether `host` can be reached from this machine alone. Raises TreelineError for a name that is none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is no name of a host"
        raise TreelineError(f"--host {host}: {reason}; give an address of this machine") from None
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def _spelled(own: socket.socket) -> str:
    name = own.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    return f"http://[{name[0]}]:{name[1]}" if ":" in name[0] else f"http://{name[0]}:{name[1]}"


def _write_address(files: DaemonFiles, config: EngineConfig, own: socket.socket, token: str) -> None:
    name = own.getsockname()
    port = None if isinstance(name, str) else name[1]
    content = {"pid": os.getpid(), "version": __version__, "model": config.model, "port": port, "token": token}
    temporary = files.address.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
    temporary.replace(files.address)


def _remove(files: DaemonFiles) -> None:
    files.socket.unlink(missing_ok=True)
    files.address.unlink(missing_ok=True)


# --- the log ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _log_to(files: DaemonFiles) -> Generator[None]:
    """Log what happens to a file that rotates."""
    handler = RotatingFileHandler(files.log, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("engine", "uvicorn.error")]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.INFO)
        each.propagate = False
    try:
        yield
    finally:
        for each in loggers:
            each.removeHandler(handler)
        handler.close()


class _Formatter(logging.Formatter):
    """Says of an exception what it is and where it was raised, not its message: that may quote what the user wrote."""

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802 - the base class's name
        """See logging.Formatter."""
        kind, _, trace = ei
        places = traceback.format_list(traceback.extract_tb(trace))
        return f"{kind.__name__ if kind else 'error'} at\n{''.join(places).rstrip()}"
