"""What answers the command line: an engine in this process, the one in the background, or another server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.cli_exit import UsageError, leaving_at_ctrl_c, option_name
from engine.config import EngineConfig, load_config, parse_text
from engine.launch import can_serve
from engine.request import CompletionChunk, CompletionRequest
from engine.terminal import LoadProgress, loading_bar

if TYPE_CHECKING:
    from engine.engine import Engine


class Streaming(Protocol):
    """What completes a request."""

    def stream(self, request: CompletionRequest) -> Iterator[CompletionChunk]:
        """Yield the completion as it comes."""
        ...

    def cancel(self) -> None:
        """End the stream in progress with what there is. Safe from a signal handler."""
        ...


def make_config(options: Mapping[str, str | None], file: Path | None) -> EngineConfig:
    """Put the options that were given over the environment and the settings file.

    Raises UsageError for a bad option and TreelineError for a bad file or variable.
    """
    overrides: dict[str, object] = {}
    for key, text in options.items():
        if text is not None:
            try:
                overrides[key] = parse_text(key, text)
            except ValueError as error:
                raise UsageError(option_name(key), str(error)) from None
    return load_config(overrides, file, os.environ)


def open_engine(config: EngineConfig) -> Streaming:
    """Return what answers for `config`. Where the daemon's libraries are missing, the engine is loaded here."""
    if config.url is not None:
        from engine.remote import RemoteClient

        return RemoteClient(config)
    if config.daemon and can_serve():
        return _Background(config)
    return _Here(load_engine(config))


def load_engine(config: EngineConfig) -> Engine:
    """Load the models behind a progress bar. Imports torch."""
    with leaving_at_ctrl_c():
        from engine.engine import Engine

    with loading_bar() as progress:
        return Engine.load(config, progress)


def model_name(settings: EngineConfig) -> str:
    """Return what to call the model: its preset, its id, its folder's name, or where it is."""
    folder = Path(settings.model)
    return settings.url or (folder.name if folder.is_absolute() else settings.model)


class _Here:
    """An engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cancelled = False

    def stream(self, request: CompletionRequest) -> Iterator[CompletionChunk]:
        self._cancelled = False
        return self._engine.complete(request, lambda: self._cancelled)

    def cancel(self) -> None:
        self._cancelled = True


class _Background:
    """The engine in the background. A bar shows while it loads."""

    def __init__(self, config: EngineConfig) -> None:
        from engine.client import Client

        self._bar = ExitStack()
        self._show: LoadProgress | None = None
        self._client = Client(config, progress=self._progress)

    def stream(self, request: CompletionRequest) -> Iterator[CompletionChunk]:
        return self._showing(self._client.stream(request))

    def _showing(self, stream: Iterator[CompletionChunk]) -> Iterator[CompletionChunk]:
        with self._client, self._bar:
            for chunk in stream:
                self._bar.close()
                self._show = None
                yield chunk

    def cancel(self) -> None:
        self._client.cancel()

    def _progress(self, phase: str, done: int, total: int) -> None:
        if self._show is None:
            self._show = self._bar.enter_context(loading_bar()) or _show_nothing
        self._show(phase or "starting", done, total)


def _show_nothing(phase: str, done: int, total: int) -> None:
    del phase, done, total
