"""A client of somebody else's OpenAI-compatible server, in place of an engine on this machine."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

from engine.config import EngineConfig
from engine.errors import ContextOverflowError, TreelineError
from engine.extras import installing
from engine.request import CompletionChunk, CompletionRequest
from engine.wire import CONTEXT_OVERFLOW, error_of

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0
READ_SECONDS = 120.0  # between two pieces: the model there may have to be loaded first


class RemoteClient:
    """Asks the server at `config.url`. Its chunks carry no tokens and no statistics: such servers tell neither."""

    def __init__(self, config: EngineConfig) -> None:
        """`config.model` is the name that the server knows; "bundled", the default, stands for its first model.

        Raises TreelineError where httpx is missing.
        """
        if config.url is None:
            raise ValueError("config.url is not set")
        try:
            import httpx
        except ImportError:
            raise TreelineError(f"a server at a url needs the extra `server`: {installing('server')}") from None
        self._url = config.url
        self._model = None if config.model == "bundled" else config.model
        headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        try:
            self._http = httpx.Client(headers=headers)
        except (ImportError, ValueError) as error:  # it reads HTTP_PROXY and its like
            raise TreelineError(f"the proxy that the environment names cannot be used: {error}") from None
        self._network: Any = None  # httpcore's stream
        self._given_up: Literal["cancelled", "deadline"] | None = None

    def stream(self, request: CompletionRequest) -> Generator[CompletionChunk]:
        """Yield text as it comes. Raises TreelineError saying what the server did wrong, or what it wants."""
        self._given_up = None  # now, not when the first piece is asked for: `cancel` may come before that
        late = None if request.deadline_ms is None else time.monotonic() + request.deadline_ms / 1000
        return self._stream(request, late)

    def _stream(self, request: CompletionRequest, late: float | None) -> Generator[CompletionChunk]:
        import httpx

        from engine.sequence import Sequence

        pieces: list[bytes] = []  # each takes the place of a token: the rules where a text ends are the engine's
        output = Sequence((), pieces.__getitem__, stop=request.stop, stop_ids=(), max_tokens=2**31)
        reason: str | None = None
        watch = threading.Timer(max(late - time.monotonic(), 0.0), self._give_up, ["deadline"]) if late else None
        try:
            if watch:
                watch.daemon = True
                watch.start()
            for piece, end in self._pieces(request, late):
                reason = end or reason
                pieces.append(piece.encode("utf-8", "replace"))
                text = output.push(len(pieces) - 1)
                if output.finish_reason is not None:
                    yield CompletionChunk(text, (), output.finish_reason)
                    return
                yield CompletionChunk(text, ())
        except (httpx.HTTPError, httpx.InvalidURL, TreelineError) as error:
            if late and time.monotonic() >= late:
                self._given_up = self._given_up or "deadline"
            if not self._given_up:
                raise self._failure(error) from None
        finally:
            if watch:
                watch.cancel()
                watch.join()
        end = self._given_up or ("length" if reason == "length" else "stop")
        yield CompletionChunk(output.finish(end), (), end)

    def cancel(self) -> None:
        """End the stream in progress: its last chunk says "cancelled". Safe from a signal handler."""
        self._give_up("cancelled")

    def _give_up(self, reason: Literal["cancelled", "deadline"]) -> None:
        self._given_up = self._given_up or reason
        self._hang_up()

    def _hang_up(self) -> None:
        connected = self._network.get_extra_info("socket") if self._network is not None else None
        if isinstance(connected, socket.socket):
            with contextlib.suppress(OSError):  # it is closed already
                connected.shutdown(socket.SHUT_RDWR)

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Keep what is connected: a server may be silent for long before it answers at all."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._network = info["return_value"]
            if self._given_up:
                self._hang_up()

    def _pieces(self, request: CompletionRequest, late: float | None) -> Iterator[tuple[str, str | None]]:
        """Yield pieces of text, and with the last one why there are no more."""
        path, body = _body(request)
        body["model"] = self._model or self._first_model(late)
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        with self._http.stream("POST", f"{self._url}/{path}", content=content, **self._options(late)) as response:
            if response.status_code != 200:
                raise self._refusal(response.status_code, response.read())
            events = 0
            for line in _lines(response):
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    events += 1
                    yield self._event(line[5:])
            if not events and not self._given_up:
                raise self._strange()

    def _options(self, late: float | None) -> dict[str, Any]:
        """Return what every request is sent with. While it connects, there is nothing that could be hung up yet."""
        import httpx

        seconds = CONNECT_SECONDS if late is None else min(max(late - time.monotonic(), 0.001), CONNECT_SECONDS)
        timeout = httpx.Timeout(READ_SECONDS, connect=seconds)
        headers = {"Content-Type": "application/json"}
        return {"timeout": timeout, "headers": headers, "extensions": {"trace": self._trace}}

    def _event(self, data: bytes) -> tuple[str, str | None]:
        try:
            value = cast("dict[str, Any]", json.loads(data))
            if value.get("error"):
                raise TreelineError(f"{self._url} failed: {error_of(data, 500)[0]}")
            if not value["choices"]:
                return "", None  # the usage
            choice = value["choices"][0]
            text = choice["delta"].get("content") if "delta" in choice else choice["text"]
            if text is not None and not isinstance(text, str):
                raise TypeError
            return text or "", choice.get("finish_reason")
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._strange() from None

    def _first_model(self, late: float | None) -> str:
        response = self._http.get(f"{self._url}/models", **self._options(late))
        if response.status_code != 200:
            raise self._refusal(response.status_code, response.content)
        try:
            self._model = str(response.json()["data"][0]["id"])
        except (ValueError, TypeError, KeyError, IndexError):
            raise self._strange() from None
        return self._model

    def _failure(self, error: Exception) -> TreelineError:
        if isinstance(error, TreelineError):
            return error
        return TreelineError(
            f"{self._url} cannot be reached ({str(error) or type(error).__name__}): is that server running, and url"
            ' right? With url = "none" an engine on this machine answers'
        )

    def _refusal(self, status: int, body: bytes) -> TreelineError:
        message, code = error_of(body, status)
        if code == CONTEXT_OVERFLOW or "maximum context length" in message:  # OpenAI's words, in vLLM too
            return ContextOverflowError(f"{self._url}: {message}")
        if status in (401, 403):
            return TreelineError(f"{self._url} refuses the key ({message}): set api_key, or TREELINE_API_KEY")
        if status == 404:
            advice = "is it an OpenAI-compatible API?"
            if not self._url.endswith("/v1"):
                advice = f"its API is perhaps at {self._url}/v1: set url to that"
            return TreelineError(f"{self._url} does not know this request ({message}): {advice}")
        if status == 429:
            return TreelineError(f"{self._url} has too much to do ({message}): ask again later")
        return TreelineError(f"{self._url} failed: {message}")

    def _strange(self) -> TreelineError:
        return TreelineError(
            f"{self._url} does not answer as an OpenAI-compatible API: check url, which often ends in /v1"
        )


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """Yield lines. httpx's own end at U+2028 and the like, too, which stand inside of JSON's strings."""
    rest = b""
    for part in response.iter_bytes():
        *lines, rest = (rest + part).splitlines(keepends=True)
        if rest.endswith(b"\n"):
            lines, rest = [*lines, rest], b""
        yield from lines
    if rest:
        yield rest


def _body(request: CompletionRequest) -> tuple[str, dict[str, Any]]:
    """Return the endpoint and what it takes. Other files go before the prefix."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stream": True,
    }
    if sampling.top_k:  # these two are no part of OpenAI's API: servers that hold to it are not told of the defaults
        body["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1:
        body["repetition_penalty"] = sampling.repetition_penalty
    if request.stop.strings:
        body["stop"] = list(request.stop.strings)
    if request.messages:
        body["messages"] = [{"role": turn.role, "content": turn.content} for turn in request.messages]
        return "chat/completions", body
    body["prompt"] = "".join(f"{file.text}\n" for file in request.context) + request.prefix
    if request.suffix.strip():
        body["suffix"] = request.suffix
    return "completions", body
