"""A request on its way through the engine, and what can come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from engine.errors import ContextOverflowError, EngineFaultError, MemoryFullError, TreelineError
from engine.request import CompletionChunk, CompletionRequest

Kind = Literal["completion", "chat", "warming"]
State = Literal["loading", "ready", "failed", "stopped"]

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # what torch says, by device


class Busy(Exception):  # noqa: N818 - an answer, not an error
    """Too many requests wait already."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request got no answer.

    `kind`: the request is at fault, or its conversation too long, or memory ran out, or the engine is wrong.
    """

    message: str
    kind: Literal["request", "context", "memory", "internal"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far loading is: layers of the model that `phase` names, and its bytes, taken to be the same for all layers.

    `error` says why it failed.
    """

    state: State = "loading"
    phase: str = ""
    done: int = 0
    total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    error: str = ""


Event = CompletionChunk | Failure


class Job:
    """One request on its way through the engine.

    `key` names its client and document: a newer job of the same key cancels it. `deliver` is called with every chunk
    or one Failure, mostly from the engine's thread, and must not block.
    """

    def __init__(
        self, request: CompletionRequest, deliver: Callable[[Event], None], kind: Kind = "completion", key: str = ""
    ) -> None:
        self.request = request
        self.kind: Kind = kind
        self.key = key
        self.deliver = deliver
        self.cancelled = False
        self.chunks: Iterator[CompletionChunk] | None = None  # once started
        self.submitted = time.perf_counter()

    def cancel(self) -> None:
        """Stop it within a layer's time. Safe from any thread, and after its end."""
        self.cancelled = True


def failure_of(error: Exception) -> Failure:
    """Say why a request got no answer, in words for whoever asked."""
    if isinstance(error, EngineFaultError):
        return Failure(str(error), "memory" if isinstance(error, MemoryFullError) else "internal")
    if isinstance(error, TreelineError):
        return Failure(str(error), "context" if isinstance(error, ContextOverflowError) else "request")
    if isinstance(error, MemoryError) or any(phrase in str(error).lower() for phrase in _OUT_OF_MEMORY):
        return Failure(
            "out of memory: ask for fewer tokens or a shorter prompt, or choose a smaller model or context_length",
            "memory",
        )
    return Failure(f"the engine failed ({type(error).__name__}); its log says where", "internal")
