"""JSON-RPC as clients really speak it: every request gets an answer, whatever is in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cattrs import Converter
from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams, JsonRpcInvalidRequest, JsonRpcServerNotInitialized
from pygls.protocol import LanguageServerProtocol, default_converter

from lsp_server.documents import Documents

if TYPE_CHECKING:
    from lsp_server.server import TreelineServer

_NOTHING_BEFORE = (types.INITIALIZE, types.EXIT)


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A message whose parameters cannot be understood."""

    id: str | int | None
    error: JsonRpcException


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
        self._request_futures = _Futures()

    def structure_message(self, data: dict[str, Any]) -> Any:
        """Return the message, or an Undecodable where pygls would tell nobody but the log."""
        try:
            return super().structure_message(data)
        except JsonRpcException as error:
            return Undecodable(data.get("id") if "method" in data else None, error)

    def handle_message(self, message: Any) -> None:
        """Answer what cannot be handled; take the snapshot of what depends on a document's present text."""
        if isinstance(message, Undecodable):
            if message.id is not None:
                self._refuse(message.id, JsonRpcInvalidParams("the parameters cannot be understood"))
            return
        method, number = getattr(message, "method", None), getattr(message, "id", None)
        if not hasattr(message, "jsonrpc") or (method is None and number is None):
            number = cast("dict[str, Any]", message).get("id") if isinstance(message, dict) else None
            self._refuse(number, JsonRpcInvalidRequest("this is no JSON-RPC 2.0 message"))
        elif method is None:
            super().handle_message(message)  # an answer to a request of ours
        elif number is not None and self._shutdown:
            self._refuse(number, JsonRpcInvalidRequest(f"{method} after shutdown"))
        elif self._workspace is None and method not in _NOTHING_BEFORE:
            if number is not None:
                self._refuse(number, JsonRpcServerNotInitialized(f"{method} before initialize"))
        elif number is not None and method == types.INITIALIZE and self._workspace is not None:
            self._refuse(number, JsonRpcInvalidRequest("initialize was sent twice"))
        else:
            if method in (types.TEXT_DOCUMENT_INLINE_COMPLETION, types.TEXT_DOCUMENT_COMPLETION):
                message.params = Arrived(message.params, self._server.snapshot(message.params))
            super().handle_message(message)

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

    def _refuse(self, number: str | int | None, error: JsonRpcException) -> None:
        # a response without an id is allowed where the request's could not be read
        body = {"jsonrpc": "2.0", "id": number, "error": {"code": error.code, "message": error.message}}
        self._send_data(body)

    def parse_error(self) -> None:
        """Answer what is not even JSON."""
        self._refuse(None, JsonRpcException("this is not JSON", -32700))
