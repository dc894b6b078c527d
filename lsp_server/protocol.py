"""JSON-RPC as clients really speak it: every request gets an answer, whatever is in it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cattrs import Converter
from cattrs.errors import BaseValidationError
from lsprotocol import types
from pygls.exceptions import (
    JsonRpcException,
    JsonRpcInternalError,
    JsonRpcInvalidParams,
    JsonRpcInvalidRequest,
    JsonRpcMethodNotFound,
    JsonRpcParseError,
    JsonRpcServerNotInitialized,
)
from pygls.protocol import LanguageServerProtocol, default_converter
from pygls.protocol.json_rpc import JsonRPCNotification, JsonRPCRequestMessage, JsonRPCResponseMessage

from lsp_server.documents import Documents

if TYPE_CHECKING:
    from lsp_server.server import TreelineServer

logger = logging.getLogger(__name__)
_ASKS = (types.TEXT_DOCUMENT_INLINE_COMPLETION, types.TEXT_DOCUMENT_COMPLETION)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request's parameters, and the document as it was when the request arrived: later changes are not its own."""

    params: Any
    snapshot: Any


def make_converter() -> Converter:
    """Return a converter that also takes what older clients send for inline completion.

    vscode-languageclient before version 10 sends the trigger kinds of VS Code (0 is an explicit request) and ranges as
    pairs of positions.
    """
    converter = default_converter()
    plain = converter.get_structure_hook(types.Range)

    def trigger_kind(value: object, _: object) -> types.InlineCompletionTriggerKind:
        invoked = value in (0, types.InlineCompletionTriggerKind.Invoked.value)
        kinds = types.InlineCompletionTriggerKind
        return kinds.Invoked if invoked else kinds.Automatic

    def a_range(value: Any, kind: Any) -> types.Range:
        if isinstance(value, list) and len(cast("list[object]", value)) == 2:
            start, end = cast("list[object]", value)
            value = {"start": start, "end": end}
        return plain(value, kind)

    converter.register_structure_hook(types.InlineCompletionTriggerKind, trigger_kind)
    converter.register_structure_hook(types.Range, a_range)
    return converter


class _Futures(dict[Any, Any]):
    """Handlers under way. pygls walks over them at shutdown, and what it cancels is taken out meanwhile."""

    def items(self) -> Any:
        """Return the items of this moment."""
        return list(super().items())


class Protocol(LanguageServerProtocol):
    """The protocol of pygls, less its silences."""

    _server: TreelineServer  # pyright: ignore[reportIncompatibleVariableOverride] - the only one it is made for

    def __init__(self, server: Any, converter: Converter) -> None:
        super().__init__(server, converter)
        self.left = False  # whether the client has said `exit`
        self._request_futures = _Futures()

    def _execute_handler(
        self,
        msg_id: str | int,
        handler: Any,
        callback: Any,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Forget a handler's future when it is done; pygls keeps those of notifications, two kilobytes a keystroke."""
        super()._execute_handler(msg_id, handler, callback, args, kwargs)
        future = self._request_futures.get(msg_id)

        def forget(done: object) -> None:
            if self._request_futures.get(msg_id) is done:
                del self._request_futures[msg_id]

        if future is not None:
            future.add_done_callback(forget)

    @property
    def ended(self) -> bool:
        """Whether the client has asked for the end of the session."""
        return self._shutdown

    def use(self, workspace: Documents) -> None:
        """Keep documents in `workspace`."""
        self._workspace = workspace

    def receive(self, body: bytes) -> None:
        """Handle one message as it came. Whatever is wrong with it, a request is answered and the session goes on."""
        try:
            data: object = json.loads(body)
        except (ValueError, RecursionError):
            self._refuse(None, JsonRpcParseError("this is not JSON"))
            return
        message = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        number = message.get("id")
        try:
            self._take(message)
        except JsonRpcException as error:
            request = "method" in message and "id" in message
            if request or not ("method" in message or "result" in message or "error" in message):
                self._refuse(number if _is_id(number) else None, error)
        except Exception as error:
            logger.exception("a message could not be handled")
            if "method" in message and _is_id(number):
                self._refuse(number, JsonRpcInternalError(type(error).__name__))

    def _take(self, data: dict[str, Any]) -> None:
        """Check a message's form and its moment, and hand it on. Raises JsonRpcException."""
        self._check_form(data)
        method = data.get("method")
        if method is not None:
            self._check_moment(method, "id" in data)
        if method == types.EXIT:
            self.left = True
            return
        if isinstance(method, str) and not self._knows(method):
            raise JsonRpcMethodNotFound(f"{method} is nothing that this server does")
        message = self._structure(data)
        if method in _ASKS:  # the snapshot comes before all that could wait
            message.params = Arrived(message.params, self._server.snapshot(message.params))
        self.handle_message(message)

    def _knows(self, method: str) -> bool:
        known = cast("Any", self.fm)
        return method == types.CANCEL_REQUEST or method in known.builtin_features or method in known.features

    def _structure(self, data: dict[str, Any]) -> Any:
        method = data.get("method")
        if method is not None:
            kind = self.get_message_type(method) or (JsonRPCRequestMessage if "id" in data else JsonRPCNotification)
            data.setdefault("params", None)
        elif "error" in data:
            kind = types.ResponseErrorMessage
        else:
            kind = self._result_types.pop(data["id"], None) or JsonRPCResponseMessage
        try:
            return self._converter.structure(data, kind)
        except (BaseValidationError, AttributeError, KeyError, TypeError, ValueError) as error:
            known = method if method is not None and self.get_message_type(method) else "a message"
            logger.warning("the parameters of %s cannot be understood (%s)", known, type(error).__name__)
            raise JsonRpcInvalidParams("the parameters cannot be understood") from None

    def _check_form(self, data: dict[str, Any]) -> None:
        method = data.get("method")
        named = isinstance(method, str) and ("id" not in data or _is_id(data["id"]))
        answer = "method" not in data and _is_id(data.get("id")) and ("result" in data or "error" in data)
        if data.get("jsonrpc") != self.VERSION or not (named or answer):
            raise JsonRpcInvalidRequest("this is no JSON-RPC 2.0 message")

    def _check_moment(self, method: str, request: bool) -> None:
        if self._shutdown and request:
            raise JsonRpcInvalidRequest(f"{method} after shutdown")
        if self._workspace is None and method not in (types.INITIALIZE, types.EXIT):
            raise JsonRpcServerNotInitialized(f"{method} before initialize")
        if self._workspace is not None and method == types.INITIALIZE:
            raise JsonRpcInvalidRequest("initialize was sent twice")

    def _refuse(self, number: object, error: JsonRpcException) -> None:
        # a response with a null id is what is due where the request's could not be read
        body = {"jsonrpc": "2.0", "id": number, "error": {"code": error.code, "message": error.message}}
        self._send_data(body)


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)
