"""Treeline's own endpoints: `/complete`, a CompletionRequest in and chunks out, and `/progress` of loading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

from engine.request import CompletionChunk, CompletionRequest, TokenLogprob
from engine.server.answers import dump, server_sent
from engine.server.errors import ApiError
from engine.server.scheduler import Scheduler

_POLL_SECONDS = 0.1


class CompleteBody(BaseModel):
    """`POST /complete`. `request` is a CompletionRequest; its `prefix` alone is needed.

    A newer request of the same `client` for the same `document` (default: the request's path) cancels this one. With
    `stream` every chunk is one line of JSON.
    """

    request: CompletionRequest
    client: str = ""
    document: str = ""
    stream: bool = True

    def key(self) -> str:
        """Return the name of what a newer request takes the place of, or "" for nothing."""
        return f"{self.client}\0{self.document or self.request.path}" if self.client else ""


def to_json(chunk: CompletionChunk) -> dict[str, Any]:
    """Return a chunk as JSON: `finish_reason` and `stats` in the last one, `logprobs`, `branches` where asked for."""
    value: dict[str, Any] = {"text": chunk.text, "tokens": list(chunk.tokens)}
    if chunk.logprobs:
        value["logprobs"] = [_logprob(each) for each in chunk.logprobs]
    if chunk.branches:
        value["branches"] = [asdict(each) for each in chunk.branches]
    if chunk.finish_reason is not None:
        value |= {"finish_reason": chunk.finish_reason, "stats": asdict(chunk.stats) if chunk.stats else None}
    return value


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token,
        "bytes": list(token.spelling),
        "logprob": token.logprob,
        "alternatives": [_logprob(each) for each in token.alternatives],
        "typed": token.typed,
    }


def whole(chunks: list[CompletionChunk]) -> dict[str, Any]:
    """Return a completion's chunks as one."""
    last = chunks[-1]
    tokens = tuple(token for chunk in chunks for token in chunk.tokens)
    logprobs = tuple(each for chunk in chunks for each in chunk.logprobs)
    branches = tuple(each for chunk in chunks for each in chunk.branches)
    text = "".join(chunk.text for chunk in chunks)
    return to_json(CompletionChunk(text, tokens, last.finish_reason, last.stats, logprobs, branches))


async def lines(chunks: AsyncIterator[tuple[int, CompletionChunk]]) -> AsyncIterator[bytes]:
    """Yield chunks as lines of JSON."""
    async for _, chunk in chunks:
        yield dump(to_json(chunk)) + b"\n"


def error_line(error: ApiError) -> bytes:
    """Return the line that says why there are no more."""
    return dump(error.body()) + b"\n"


async def progress_events(scheduler: Scheduler) -> AsyncIterator[bytes]:
    """Yield the progress of loading, whenever it has changed, until there is none any more."""
    told = None
    while True:
        progress = scheduler.progress
        if progress != told:
            yield server_sent(asdict(progress))
            told = progress
        if progress.state != "loading":
            return
        await asyncio.sleep(_POLL_SECONDS)
