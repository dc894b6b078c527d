"""A client of somebody else's OpenAI-compatible server, in place of an engine on this machine."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, cast

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
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        self._http = httpx.Client(headers=headers, timeout=timeout)
        self._network: Any = None  # httpcore's stream
        self._cancelled = False

    def stream(self, request: CompletionRequest) -> Generator[CompletionChunk]:
        """Yield text as it comes. Raises TreelineError saying what the server did wrong, or what it wants."""
        self._cancelled = False  # now, not when the first piece is asked for: `cancel` may come before that
        return self._stream(request)

    def _stream(self, request: CompletionRequest) -> Generator[CompletionChunk]:
        import httpx

        from engine.sequence import Sequence

        pieces: list[bytes] = []  # each takes the place of a token: the rules where a text ends are the engine's
        output = Sequence((), pieces.__getitem__, stop=request.stop, stop_ids=(), max_tokens=2**31)
        reason: str | None = None
        try:
            for piece, end in self._pieces(request):
                reason = end or reason
                pieces.append(piece.encode())
                text = output.push(len(pieces) - 1)
                if output.finish_reason is not None:
                    yield CompletionChunk(text, (), output.finish_reason)
                    return
                yield CompletionChunk(text, ())
        except httpx.HTTPError as error:
            if not self._cancelled:
                raise TreelineError(
                    f"{self._url} cannot be reached ({str(error) or type(error).__name__}): is that server running, and"
                    ' url right? With url = "none" an engine on this machine answers'
                ) from None
        end = "cancelled" if self._cancelled else "length" if reason == "length" else "stop"
        yield CompletionChunk(output.finish(end), (), end)

    def cancel(self) -> None:
        """End the stream in progress: its last chunk says "cancelled". Safe from a signal handler."""
        self._cancelled = True
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
            if self._cancelled:
                self._hang_up()

    def _pieces(self, request: CompletionRequest) -> Iterator[tuple[str, str | None]]:
        """Yield pieces of text, and with the last one why there are no more."""
        path, body = _body(request)
        body["model"] = self._model or self._first_model()
        with self._http.stream("POST", f"{self._url}/{path}", json=body, extensions={"trace": self._trace}) as response:
            if response.status_code != 200:
                raise self._refusal(response.status_code, response.read())
            events = 0
            for line in _lines(response):
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    events += 1
                    yield self._event(line[5:])
            if not events:
                raise self._strange()

    def _event(self, data: bytes) -> tuple[str, str | None]:
        try:
            value = cast("dict[str, Any]", json.loads(data))
            if "error" in value:
                raise TreelineError(f"{self._url} failed: {error_of(data, 500)[0]}")
            if not value["choices"]:
                return "", None  # the usage
            choice = value["choices"][0]
            text = choice["delta"].get("content") if "delta" in choice else choice["text"]
            return text or "", choice.get("finish_reason")
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._strange() from None

    def _first_model(self) -> str:
        response = self._http.get(f"{self._url}/models", extensions={"trace": self._trace})
        if response.status_code != 200:
            raise self._refusal(response.status_code, response.content)
        try:
            self._model = str(response.json()["data"][0]["id"])
        except (ValueError, TypeError, KeyError, IndexError):
            raise self._strange() from None
        return self._model

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
    if request.stop.strings:
        body["stop"] = list(request.stop.strings)
    if request.messages:
        body["messages"] = [{"role": turn.role, "content": turn.content} for turn in request.messages]
        return "chat/completions", body
    body["prompt"] = "".join(f"{file.text}\n" for file in request.context) + request.prefix
    if request.suffix.strip():
        body["suffix"] = request.suffix
    return "completions", body
