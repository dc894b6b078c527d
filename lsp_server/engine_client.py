"""The engine as the language server sees it: in the background on this machine, or behind a URL."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from engine.config import EngineConfig, load_config
from engine.errors import EngineEndedError, TreelineError
from engine.request import CompletionChunk, CompletionRequest

if TYPE_CHECKING:
    from engine.client import AsyncClient
    from engine.remote import RemoteClient

logger = logging.getLogger(__name__)
RETRY_SECONDS = 2.0  # after a failure, until the engine is looked for again
ENDED_SECONDS = 60.0  # the same where it ends while it loads: every try costs the machine as much as loading does


@dataclass(frozen=True, slots=True)
class EngineState:
    """How the engine is. `done` of `total`: layers of `phase` that are loaded. `message`: why it failed."""

    kind: Literal["starting", "loading", "ready", "failed"] = "starting"
    model: str = ""
    phase: str = ""
    done: int = 0
    total: int = 0
    message: str = ""


class Streaming(Protocol):
    """What completes requests."""

    def stream(self, request: CompletionRequest, document: str = "") -> AsyncGenerator[CompletionChunk]:
        """Yield verified text as it comes; closing the generator stops the work. Raises TreelineError."""
        ...


class EngineClient:
    """Finds, starts and asks the engine of the user's configuration. Use it from one event loop."""

    def __init__(self, changed: Callable[[EngineState], None], config_file: Path | None = None) -> None:
        """`changed` is called with every new state."""
        self.state = EngineState()
        self._changed = changed
        self._config_file = config_file
        self._backend: AsyncClient | _Remote | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._look_again_at = 0.0

    @property
    def ready(self) -> bool:
        """Whether a request would be answered. If not, see to it that one will be."""
        if self.state.kind == "failed" and time.monotonic() > self._look_again_at:
            self.connect()
        return self.state.kind == "ready"

    @property
    def tells_branches(self) -> bool:
        """Whether it says what was verified beside a completion; other servers do not."""
        return not isinstance(self._backend, _Remote)

    def connect(self) -> None:
        """Find the engine, or start it, in the background; the state tells how that goes."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())

    async def stream(self, request: CompletionRequest, document: str = "") -> AsyncGenerator[CompletionChunk]:
        """Yield verified text as it comes. Raises TreelineError, after which the engine is looked for again."""
        if self._backend is None:
            raise TreelineError("the engine is not there yet")
        try:
            async with aclosing(self._backend.stream(request, document)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except TreelineError as error:
            if isinstance(self._backend, _Remote):
                self._fail(error)
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self.connect)
            elif isinstance(error, EngineEndedError):
                self._fail(error)
            else:
                self._set(EngineState("starting", self.state.model))
                self.connect()
            raise

    async def restart(self) -> None:
        """End the engine and start it anew, with the configuration as it is now."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        backend, self._backend = self._backend, None
        self._set(EngineState())
        try:
            if backend is not None:
                await backend.restart()
        finally:
            if backend is not None:
                await backend.close()
            self.connect()

    async def close(self) -> None:
        """Close all connections; the engine goes on for others."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._backend is not None:
            await self._backend.close()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()

        def progress(phase: str, done: int, total: int) -> None:
            loop.call_soon_threadsafe(self._loading, phase, done, total)

        try:
            config = await asyncio.to_thread(load_config, {}, self._config_file, os.environ)
            self._set(replace(self.state, model=model_name(config)))
            if self._backend is None:
                self._backend = await asyncio.to_thread(_backend, config, progress)
            await self._backend.connect()
            self._set(EngineState("ready", model_name(config)))
        except TreelineError as error:
            self._fail(error)
        except Exception as error:
            logger.exception("the engine cannot be started")
            self._fail(TreelineError(f"the engine cannot be started: {error}"))

    def _fail(self, error: TreelineError) -> None:
        """Let nobody ask for a while."""
        pause = ENDED_SECONDS if isinstance(error, EngineEndedError) else RETRY_SECONDS
        self._look_again_at = time.monotonic() + pause
        self._set(EngineState("failed", self.state.model, message=str(error)))

    def _loading(self, phase: str, done: int, total: int) -> None:
        """The engine is not ready after all, or not yet."""
        state = EngineState("loading", self.state.model, phase, done, total)
        if state != self.state:
            self._set(state)
        self.connect()

    def _set(self, state: EngineState) -> None:
        self.state = state
        self._changed(state)


def model_name(config: EngineConfig) -> str:
    """Return what to call the model: its preset, its id, its folder's name, or where it is."""
    return config.url or Path(config.model).name


def _backend(config: EngineConfig, progress: Callable[[str, int, int], None]) -> AsyncClient | _Remote:
    """Return what answers for `config`. Imports what is slow to import."""
    if config.url is not None:
        return _Remote(config)
    importlib.import_module("httpx")  # slow, and the first request would wait for it

    from engine.client import AsyncClient

    return AsyncClient(config, name=f"language-server-{os.getpid()}", progress=progress)


class _Remote:
    """Another server's engine: its client is a synchronous one, so that each stream has a thread."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._idle: list[RemoteClient] = []  # their connections are open

    async def connect(self) -> None:
        """There is nothing to start; whether it answers, the first request shows."""

    async def restart(self) -> None:
        """It is not ours to restart."""

    async def close(self) -> None:
        """Streams close their own connections."""

    async def stream(self, request: CompletionRequest, document: str = "") -> AsyncGenerator[CompletionChunk]:
        """See EngineClient."""
        from engine.remote import RemoteClient

        del document
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[CompletionChunk | TreelineError | None] = asyncio.Queue()
        client = self._idle.pop() if self._idle else None
        given_up = threading.Event()

        def work() -> None:
            nonlocal client
            last: TreelineError | None = TreelineError("the client of the server at url has failed")
            try:
                asked = client or RemoteClient(self._config)  # here, since it takes a while
                chunks = asked.stream(request)
                client = asked
                if given_up.is_set():
                    asked.cancel()
                for chunk in chunks:
                    loop.call_soon_threadsafe(pieces.put_nowait, chunk)
                last = None
            except TreelineError as error:
                last = error
            except Exception:
                logger.exception("the client of the server at url")
            finally:  # whatever happens: somebody waits for the end
                loop.call_soon_threadsafe(pieces.put_nowait, last)

        threading.Thread(target=work, name="remote", daemon=True).start()
        ended = False
        try:
            while (piece := await pieces.get()) is not None:
                if isinstance(piece, TreelineError):
                    raise piece
                yield piece
            ended = True
            if client is not None:
                self._idle.append(client)
        finally:
            if not ended:
                given_up.set()
                if client is not None:
                    client.cancel()
