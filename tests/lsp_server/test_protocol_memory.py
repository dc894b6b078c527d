"""Typing for a day leaves nothing behind in the protocol."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from lsp_server.features import register
from lsp_server.server import TreelineServer

URI = "file:///nowhere/a.py"


class Sent:
    """Takes what the server writes."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def write(self, data: bytes) -> None:
        self.bodies.append(json.loads(data.partition(b"\r\n\r\n")[2]))

    def close(self) -> None:
        """Nothing to close."""


class Session:
    """A server in this process."""

    def __init__(self, capabilities: object) -> None:
        self.server, self.sent = TreelineServer("0"), Sent()
        register(self.server)
        self.server.protocol.set_writer(self.sent)
        self.send("initialize", {"capabilities": capabilities, "processId": None, "rootUri": None}, 1)

    def send(self, method: str, params: object, number: int | None = None) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
        protocol = self.server.protocol
        protocol.handle_message(json.loads(json.dumps(message), object_hook=protocol.structure_message))

    async def answer(self, number: int) -> dict[str, Any]:
        while True:
            for body in self.sent.bodies:
                if body.get("id") == number and "method" not in body:
                    return body
            await asyncio.sleep(0)


def test_no_future_outlives_its_message() -> None:
    asyncio.run(_type())


def test_shutdown_while_a_handler_waits_for_the_client() -> None:
    asyncio.run(_shut_down())


async def _shut_down() -> None:
    session = Session({"workspace": {"configuration": True}})
    session.server.engine.connect = lambda: None
    session.send("initialized", {})  # asks for the settings, which this client never sends
    while not any(body.get("method") == "workspace/configuration" for body in session.sent.bodies):
        await asyncio.sleep(0)
    session.send("shutdown", None, 2)
    assert (await session.answer(2))["result"] is None


async def _type() -> None:
    session = Session({})
    server, send = session.server, session.send
    protocol = server.protocol
    send("textDocument/didOpen", {"textDocument": {"uri": URI, "languageId": "python", "version": 1, "text": ""}})
    for version in range(2, 52):
        place = {"line": 0, "character": version - 2}
        change = {"range": {"start": place, "end": place}, "text": "x"}
        document = {"uri": URI, "version": version}
        send("textDocument/didChange", {"textDocument": document, "contentChanges": [change]})
        send("textDocument/didSave", {"textDocument": {"uri": URI}})
    asked = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 3}, "context": {"triggerKind": 2}}
    send("textDocument/inlineCompletion", asked, 2)
    document = server.documents.open_document(URI)
    assert document is not None
    assert document.source == 50 * "x"
    await session.answer(2)
    await asyncio.sleep(0)
    kept = protocol._request_futures  # pyright: ignore[reportPrivateUsage] - it is pygls' and has no other name
    assert kept == {}
