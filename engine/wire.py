"""Requests and chunks as JSON, for those who talk to the daemon. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from engine.errors import TreelineError
from engine.request import Branch, CompletionChunk, CompletionRequest, CompletionStats, TokenLogprob

CONTEXT_OVERFLOW = "context_length_exceeded"  # OpenAI's code


def encode_request(request: CompletionRequest, client: str = "", document: str = "") -> bytes:
    """Return the body of `POST /complete`."""
    body = {"request": asdict(request), "client": client, "document": document, "stream": True}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def decode_chunk(line: bytes) -> CompletionChunk:
    """Read one line of the answer. Raises TreelineError for the line that reports a failure, or for no such line."""
    try:
        value = cast("dict[str, Any]", json.loads(line))
        if "error" in value:
            raise TreelineError(str(value["error"]["message"]))
        stats = value.get("stats")
        return CompletionChunk(
            value["text"],
            tuple(value["tokens"]),
            value.get("finish_reason"),
            CompletionStats(**stats) if stats else None,
            tuple(_logprob(each) for each in value.get("logprobs", ())),
            tuple(Branch(**each) for each in value.get("branches", ())),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise TreelineError("the engine's answer cannot be read: is it another program that listens there?") from None


def _logprob(value: Mapping[str, Any]) -> TokenLogprob:
    rivals = tuple(_logprob(each) for each in value["alternatives"])
    return TokenLogprob(value["token"], bytes(value["bytes"]), value["logprob"], rivals, value["typed"])


def error_of(body: bytes, status: int) -> tuple[str, str]:
    """Return the message and the code of an error's body, be it ours, another server's, or nobody's."""
    try:
        error = json.loads(body)["error"]
        if isinstance(error, str):
            return error, ""
        return str(error["message"]), str(error.get("code") or "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"status {status}", ""
