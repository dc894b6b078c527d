"""The running service: an event loop with the API in front of a thread with the engine."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from engine.config import EngineConfig
from engine.errors import TreelineError
from engine.hub import resolve_pair
from engine.server.app import Service, create_app
from engine.server.metrics import Metrics
from engine.server.scheduler import Completer, LoadProgress, Scheduler

MAX_CONNECTIONS = 1000  # by TCP, where anybody may connect; more are closed at once
FIRST_REQUEST_SECONDS = 30.0  # in which a connection must bring one
NEXT_REQUEST_SECONDS = 60.0  # after an answer
SEND_SECONDS = 30.0  # in which a client must take what waits for it
GRACE_SECONDS = 5  # for answers in progress to end
FAILED_SECONDS = 2.0  # for clients to learn why loading failed
_IDLE_POLL_SECONDS = 0.2


def run(config: EngineConfig, sockets: Sequence[socket.socket], token: str, idle_seconds: float | None) -> str:
    """Serve `config` on listening sockets until a signal or idleness ends it.

    `token` is asked of whoever comes by TCP. Returns why loading failed, or nothing.
    """
    _allow_connections()
    return asyncio.run(_serve(config, list(sockets), token, idle_seconds))


def _allow_connections() -> None:
    """Raise this process's limit of open files, as far as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(config: EngineConfig, sockets: list[socket.socket], token: str, idle_seconds: float | None) -> str:
    metrics = Metrics()
    scheduler = Scheduler(lambda progress: _load(config, progress), metrics, _sizes(config))
    server = _Server(scheduler, create_app(Service(scheduler, metrics, model_name(config)), token))
    scheduler.start()
    watch = asyncio.create_task(_end_when_idle(server, scheduler, idle_seconds))
    await server.serve(sockets=sockets)
    watch.cancel()
    error = scheduler.progress.error
    scheduler.stop()
    await asyncio.to_thread(scheduler.join, GRACE_SECONDS)
    return error


def _load(config: EngineConfig, progress: LoadProgress) -> Completer:
    from engine.engine import Engine  # imports torch: in the engine's thread, while the API answers already

    return Engine.load(config, progress)


def _sizes(config: EngineConfig) -> dict[str, int]:
    """Return the bytes of the weights of each phase of loading; none for what cannot be found, as loading will say."""
    try:
        pair = resolve_pair(config)
    except TreelineError:
        return {}
    folders = {"target": pair.target, "drafter": pair.drafter}
    return {
        phase: sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for phase, folder in folders.items()
        if folder is not None
    }


def model_name(config: EngineConfig) -> str:
    """Return what clients call the model: a preset's or repository's name, or that of the checkpoint's folder."""
    name = Path(config.model).name if Path(config.model).is_absolute() else config.model
    return name.encode("utf-8", "replace").decode()


async def _end_when_idle(server: uvicorn.Server, scheduler: Scheduler, idle_seconds: float | None) -> None:
    """End the server when nothing has been asked for so long, or loading has failed and clients know."""
    while True:
        await asyncio.sleep(_IDLE_POLL_SECONDS)
        limit = FAILED_SECONDS if scheduler.progress.state == "failed" else idle_seconds
        if limit is not None and scheduler.idle_seconds() > limit:
            server.should_exit = True
            return


class _Server(uvicorn.Server):
    """Ends on a signal: what is being answered ends with what is verified, then the process."""

    def __init__(self, scheduler: Scheduler, app: object) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # pyright: ignore[reportArgumentType] - an ASGI application
                http=_Protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=int(NEXT_REQUEST_SECONDS),
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn.Server. It would raise the signal once more at the end; this is a normal end."""
        del sig, frame
        self._loop.call_soon_threadsafe(self._scheduler.stop)
        self.force_exit = self.should_exit  # the second signal
        self.should_exit = True


class _Protocol(H11Protocol):
    """HTTP that closes connections which bring no request, take no answer, or are too many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._stuck: asyncio.TimerHandle | None = None
        self._watch = self.loop.call_later(FIRST_REQUEST_SECONDS, self._close_unless_used, None)
        if self._by_tcp() and sum(each._by_tcp() for each in self._all()) > MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._watch.cancel()
        self.resume_writing()

    def pause_writing(self) -> None:
        """See asyncio.Protocol. What is sent from now on waits; a client that takes none of it for long is gone."""
        super().pause_writing()
        self._stuck = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _close_unless_used(self, seen: RequestResponseCycle | None) -> None:
        """Close it unless it is being answered, or has been asked something since `seen`: half a request is nothing.

        A connection that is closing already still wants to send: nobody has taken that in all this time.
        """
        idle = self._current() is None or self.cycle.response_complete
        if self.transport.is_closing() or (idle and self._current() is seen):
            self.transport.abort()
        else:
            self._watch = self.loop.call_later(NEXT_REQUEST_SECONDS, self._close_unless_used, self._current())

    def _current(self) -> RequestResponseCycle | None:
        return self.cycle  # None until the first request, whatever its annotation says

    def _by_tcp(self) -> bool:
        return self.server is None or self.server[1] is not None

    def _all(self) -> Iterable[_Protocol]:
        return (each for each in self.connections if isinstance(each, _Protocol))
