"""What both clients of the daemon share: whom they ask, what a refusal asks for, how an answer is put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from engine import __version__
from engine.config import EngineConfig
from engine.errors import ContextOverflowError, EngineEndedError, TreelineError
from engine.request import CompletionChunk
from engine.runtime import daemon_files
from engine.wire import CONTEXT_OVERFLOW, error_of

LoadProgress = Callable[[str, int, int], None]

WAIT_SECONDS = 0.1  # before asking again
ATTEMPTS = 3  # more, when the daemon ends before it has answered
HEADERS = {"Content-Type": "application/json", "X-Treeline-Version": __version__}
LOST = "the engine ended in the middle of an answer: ask again, and it is started anew"


class Daemon:
    """The daemon of one configuration, as clients see it: where it is, and what its refusals ask for."""

    def __init__(
        self, config: EngineConfig, environment: Mapping[str, str] | None, progress: LoadProgress | None
    ) -> None:
        self.config = config
        self.environment = dict(os.environ if environment is None else environment)
        self.files = daemon_files(config, self.environment)
        self._progress = progress

    def still_loading(self, health: Mapping[str, object] | None) -> bool:
        """Say whether the model is being loaded, and report how far that is."""
        if not health or health.get("status") != "loading":
            return False
        if self._progress:
            done, total = (int(str(health.get(name, 0))) for name in ("done", "total"))
            self._progress(str(health.get("phase", "")), done, total)
        return True


class Losses:
    """How often the daemon has ended before it answered a request."""

    def __init__(self, daemon: Daemon) -> None:
        self._log = daemon.files.log
        self._count = 0
        self._loading = False

    def add(self, loading: bool = False) -> None:
        """Count one more; `loading`: it had not loaded its model yet. Raises TreelineError when these are too many."""
        self._count += 1
        self._loading = self._loading or loading
        if self._count > ATTEMPTS and self._loading:
            raise EngineEndedError(f"the engine ended while it loaded the model: see {self._log}")
        if self._count > ATTEMPTS:
            raise TreelineError(LOST)


def advice(status: int, body: bytes) -> Literal["load", "again", "replace"]:
    """Return what to do about a refusal before asking again. Raises TreelineError if there is no use."""
    message, code = error_of(body, status)
    if code == "loading":
        return "load"
    if code in ("stopping", "queue_full"):
        return "again"
    if code == "version_idle":
        return "replace"
    if code == "version_busy":
        raise TreelineError(f"{message}, and it is busy: ask again later, or `treeline serve stop`")
    if code == CONTEXT_OVERFLOW:
        raise ContextOverflowError(message)
    raise TreelineError(message)


def whole(chunks: Sequence[CompletionChunk]) -> CompletionChunk:
    """Join the chunks of a completion into one."""
    return CompletionChunk(
        "".join(chunk.text for chunk in chunks),
        tuple(token for chunk in chunks for token in chunk.tokens),
        chunks[-1].finish_reason,
        chunks[-1].stats,
        tuple(each for chunk in chunks for each in chunk.logprobs),
        tuple(each for chunk in chunks for each in chunk.branches),
    )
