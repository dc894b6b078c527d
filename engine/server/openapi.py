"""The OpenAPI document of the API, from the same models that check the requests."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from engine.server.infill import InfillBody
from engine.server.native import CompleteBody
from engine.server.openai_api import ChatBody, CompletionBody

_POSTS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("/complete", "Complete, in Treeline's own terms", CompleteBody),
    ("/v1/completions", "Complete, as OpenAI's API does", CompletionBody),
    ("/v1/chat/completions", "Answer a conversation, as OpenAI's API does", ChatBody),
    ("/infill", "Complete, as llama.cpp's server does", InfillBody),
)
_GETS = (
    ("/health", "Whether the engine can answer", "application/json"),
    ("/progress", "How far loading is", "application/json"),
    ("/metrics", "Counters, in Prometheus' text format", "text/plain"),
    ("/v1/models", "The model that is served", "application/json"),
    ("/openapi.json", "This document", "application/json"),
)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def document(version: str) -> dict[str, Any]:
    """Return the document, OpenAPI 3.1."""
    template = "#/components/schemas/{model}"
    models = [(model, "validation") for _, _, model in _POSTS]
    _, definitions = models_json_schema(models, ref_template=template)  # pyright: ignore[reportArgumentType] - the same literals
    paths: dict[str, Any] = {path: {"get": _operation(summary, kind)} for path, summary, kind in _GETS}
    for path, summary, model in _POSTS:
        body = {"required": True, "content": _json({"$ref": template.format(model=model.__name__)})}
        paths[path] = {"post": {**_operation(summary, "application/json"), "requestBody": body}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Treeline", "version": version},
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(summary: str, media_type: str) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Success", "content": {media_type: {}}}
    bad = {"description": "An error", "content": _json({"$ref": "#/components/schemas/Error"})}
    return {"summary": summary, "responses": {"200": good, "default": bad}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
