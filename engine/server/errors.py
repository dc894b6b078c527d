"""What a client is told when a request fails, in the shape that OpenAI's clients expect."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.responses import JSONResponse

from engine.errors import TreelineError
from engine.server.jobs import Failure
from engine.wire import CONTEXT_OVERFLOW

Body = TypeVar("Body", bound=BaseModel)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}
_CODES = {"request": None, "context": CONTEXT_OVERFLOW, "memory": "out_of_memory", "internal": "engine_error"}
_STATUS = {"request": 400, "context": 400, "memory": 503, "internal": 500}


class ApiError(Exception):
    """An answer other than success. `param` names the field at fault, `code` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the answer."""
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def of_failure(failure: Failure) -> ApiError:
    """Turn what the engine's thread reports into an answer."""
    return ApiError(_STATUS[failure.kind], failure.message, code=_CODES[failure.kind])


def parse(model: type[Body], raw: bytes) -> Body:
    """Read a request's JSON. Raises ApiError 400 naming the field at fault."""
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        # the closest of a union's branches: the one whose type was right, else the one that was got into deepest
        first = max(found, key=lambda each: (not each["type"].endswith("_type"), len(each["loc"])))
        if first["type"] == "json_invalid":
            raise ApiError(400, f"the body is not JSON: {first['msg']}", code="invalid_json") from None
        place = _place(first["loc"])
        raise ApiError(400, f"{place or 'the body'}: {first['msg']}", param=place or None) from None
    except TreelineError as error:  # raised by the dataclasses of engine.request: "field is value: it must be ..."
        raise ApiError(400, str(error), param=str(error).split(" ", 1)[0]) from None


def _place(loc: tuple[int | str, ...]) -> str:
    """Spell where a value is: `messages[0].content`. Pydantic's names for the branches of a union are left out."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "bool", "float"):
            place += f".{part}" if place else part
    return place
