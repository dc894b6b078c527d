"""The HTTP API: routes, who may call them, and how much they may send."""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine import __version__
from engine.server import native
from engine.server.answers import Answer, Disconnected, collect, server_sent, stream
from engine.server.errors import ApiError, parse
from engine.server.infill import InfillBody
from engine.server.jobs import Kind
from engine.server.metrics import Metrics
from engine.server.openai_api import ChatBody, CompletionBody, Writer
from engine.server.openapi import document
from engine.server.scheduler import Scheduler

MAX_BODY = 16 * 2**20  # bytes
BODY_SECONDS = 30.0  # for a body to arrive
VERSION_HEADER = "x-treeline-version"
_EVENTS = "text/event-stream"

Body = TypeVar("Body", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Service:
    """What the handlers share. `model` is the name that clients see."""

    scheduler: Scheduler
    metrics: Metrics
    model: str


def create_app(service: Service, token: str | None) -> ASGIApp:
    """Return the application. `token`: asked of whoever comes by TCP; a Unix socket is its owner's alone."""
    handlers = _Handlers(service)
    routes = [
        Route("/health", handlers.health, methods=["GET"]),
        Route("/progress", handlers.progress, methods=["GET"]),
        Route("/metrics", handlers.metrics, methods=["GET"]),
        Route("/openapi.json", handlers.openapi, methods=["GET"]),
        Route("/v1/models", handlers.models, methods=["GET"]),
        Route("/v1/models/{model:path}", handlers.model, methods=["GET"]),
        Route("/complete", handlers.complete, methods=["POST"]),
        Route("/v1/completions", handlers.completions, methods=["POST"]),
        Route("/v1/chat/completions", handlers.chat, methods=["POST"]),
        Route("/infill", handlers.infill, methods=["POST"]),
    ]
    errors: dict[type[Exception], Callable[[Request, Exception], Response]] = {
        ApiError: _answer_error,
        HTTPException: _answer_error,
        Disconnected: _answer_nobody,
        ClientDisconnect: _answer_nobody,
    }
    app = Starlette(routes=routes, exception_handlers=errors)  # pyright: ignore[reportArgumentType] - narrower handlers
    return _Gate(app, service, token)


def _answer_error(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):  # from the router: 404, 405
        error = ApiError(error.status_code, f"{error.detail}: see /openapi.json for what there is")
    return error.response() if isinstance(error, ApiError) else ApiError(500, "internal error").response()


def _answer_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # never sent: the client has hung up


class _Handlers:
    """One method per route: translate, delegate, translate back."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._scheduler = service.scheduler

    async def health(self, _: Request) -> Response:
        """Say what is here, and whether it can answer: 503 while it cannot."""
        progress = self._scheduler.progress
        content = {
            "status": "ok" if progress.state == "ready" else progress.state,
            "version": __version__,
            "model": self._service.model,
            "pid": os.getpid(),
            "busy": self._scheduler.busy,
            "waiting": self._scheduler.waiting,
            "idle_seconds": self._scheduler.idle_seconds(),
            "phase": progress.phase,
            "done": progress.done,
            "total": progress.total,
            "error": progress.error,
        }
        return JSONResponse(content, 200 if progress.state == "ready" else 503)

    async def progress(self, request: Request) -> Response:
        """Say how far loading is; as events where the client accepts them."""
        if _EVENTS in request.headers.get("accept", ""):
            return StreamingResponse(native.progress_events(self._scheduler), media_type=_EVENTS)
        return JSONResponse(asdict(self._scheduler.progress))

    async def metrics(self, _: Request) -> Response:
        """Return Prometheus' text."""
        gauges = {
            "waiting": ("Requests that wait for the engine.", self._scheduler.waiting),
            "busy": ("Whether a request runs or waits.", int(self._scheduler.busy)),
            "ready": ("Whether the model is loaded.", int(self._scheduler.progress.state == "ready")),
        }
        return PlainTextResponse(self._service.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        """Return the OpenAPI document of this API."""
        return JSONResponse(document(__version__))

    async def models(self, _: Request) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """Describe the one model, if that is the one asked for."""
        name = request.path_params["model"]
        if name != self._service.model:
            raise ApiError(404, f"no model is called {name!r}: see /v1/models", "model", "model_not_found")
        return JSONResponse(self._model())

    async def complete(self, request: Request) -> Response:
        """Treeline's own completion."""
        body = await self._read(request, native.CompleteBody)
        kind: Kind = "chat" if body.request.messages else "completion"
        answer = Answer(self._scheduler, [body.request], kind, body.key())
        if body.stream:
            return await stream(request, answer, native.lines, "application/x-ndjson", native.error_line)
        (chunks,) = await collect(request, answer)
        return JSONResponse(native.whole(chunks))

    async def completions(self, request: Request) -> Response:
        """OpenAI's completion."""
        return await self._openai(request, await self._read(request, CompletionBody), "completion")

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat completion."""
        body = await self._read(request, ChatBody)
        return await self._openai(request, body, "warming" if body.warming() else "chat")

    async def infill(self, request: Request) -> Response:
        """llama.cpp's completion."""
        body = await self._read(request, InfillBody)
        context, model = self._scheduler.context, self._service.model
        kind: Kind = "warming" if body.warming() else "completion"
        answer = Answer(self._scheduler, [body.request()], kind, enough=body.time_limit())
        if body.stream:
            events = partial(body.events, context=context, model=model)
            return await stream(request, answer, events, _EVENTS, _error_event)
        (chunks,) = await collect(request, answer)
        return JSONResponse(body.answer(chunks, context, model))

    async def _openai(self, request: Request, body: CompletionBody | ChatBody, kind: Kind) -> Response:
        answer = Answer(self._scheduler, body.requests(), kind)
        writer = Writer.of(body, self._service.model)
        if body.stream:
            return await stream(request, answer, writer.events, _EVENTS, _error_event)
        return JSONResponse(writer.whole(await collect(request, answer)))

    async def _read(self, request: Request, model: type[Body]) -> Body:
        """Read a request that needs the engine. Raises ApiError."""
        body = parse(model, await _body(request))
        progress = self._scheduler.progress
        if progress.state == "failed":
            raise ApiError(500, progress.error, code="load_failed")
        if progress.state == "stopped":
            raise ApiError(503, "the engine is stopping", code="stopping", retry_after=1)
        if progress.state == "loading":
            raise ApiError(503, "the model is still loading: see /progress", code="loading", retry_after=1)
        return body

    def _model(self) -> dict[str, object]:
        return {"id": self._service.model, "object": "model", "created": 0, "owned_by": "treeline"}


def _error_event(error: ApiError) -> bytes:
    return server_sent(error.body())


async def _body(request: Request) -> bytes:
    """Read the body. Raises ApiError 413 when it is too large and 408 when it does not come."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > MAX_BODY:
        raise ApiError(413, f"the body is larger than {MAX_BODY} bytes", code="too_large")
    parts = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                parts += part
                if len(parts) > MAX_BODY:
                    raise ApiError(413, f"the body is larger than {MAX_BODY} bytes", code="too_large")
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s", code="timeout") from None
    return bytes(parts)


class _Gate:
    """What is checked before anything is read: the token, and the version of Treeline's own clients. Counts bytes."""

    def __init__(self, app: ASGIApp, service: Service, token: str | None) -> None:
        self._app = app
        self._service = service
        self._expected = f"Bearer {token}".encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        app = refusal.response() if refusal else self._app

        async def counted(message: Message) -> None:
            self._service.metrics.sent(len(message.get("body", b"")))
            await send(message)

        await app(scope, receive, counted)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        server = scope.get("server")
        by_tcp = server is None or server[1] is not None
        if self._expected is not None and by_tcp and scope["path"] != "/health":
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                return ApiError(401, "wrong or missing token: send Authorization: Bearer TOKEN", code="invalid_api_key")
        version = headers.get(VERSION_HEADER.encode(), b"").decode("latin-1")
        if version and version != __version__:
            code = "version_busy" if self._service.scheduler.busy else "version_idle"
            return ApiError(409, f"this engine is Treeline {__version__}, the client {version}", code=code)
        return None
