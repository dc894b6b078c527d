"""A document that an editor has open."""

from __future__ import annotations

from typing import Any

from tests.lsp_server.rpc import Client

Place = tuple[int, int]
END: Place = (2**31 - 1, 0)  # any place beyond the text is its end


class OpenFile:
    """Speaks of one document to a server."""

    def __init__(self, client: Client, uri: str) -> None:
        self.client = client
        self.uri = uri
        self.version = 0

    def open(self, text: str, language: str = "python") -> None:
        self.version = 1
        item = {"uri": self.uri, "languageId": language, "version": 1, "text": text}
        self.client.notify("textDocument/didOpen", {"textDocument": item})

    def change(self, *changes: tuple[Place, Place, str] | str) -> None:
        """Change parts of the text, or all of it."""
        self.client.notify("textDocument/didChange", self.change_params(*changes))

    def change_params(self, *changes: tuple[Place, Place, str] | str) -> dict[str, Any]:
        self.version += 1
        events = [
            {"text": each} if isinstance(each, str) else {"range": span(each[0], each[1]), "text": each[2]}
            for each in changes
        ]
        return {"textDocument": {"uri": self.uri, "version": self.version}, "contentChanges": events}

    def close(self) -> None:
        self.client.notify("textDocument/didClose", {"textDocument": {"uri": self.uri}})

    def params(self, place: Place = END, kind: int = 1, selected: tuple[Place, Place, str] | None = None) -> Any:
        """Return the parameters of a request for suggestions."""
        context: dict[str, Any] = {"triggerKind": kind}
        if selected is not None:
            context["selectedCompletionInfo"] = {"range": span(*selected[:2]), "text": selected[2]}
        return {"textDocument": {"uri": self.uri}, "position": position(place), "context": context}

    def begin(self, place: Place = END, kind: int = 1) -> int:
        """Ask for suggestions; return the request's id."""
        return self.client.begin("textDocument/inlineCompletion", self.params(place, kind))

    def complete(
        self, place: Place = END, kind: int = 1, selected: tuple[Place, Place, str] | None = None
    ) -> list[dict[str, Any]]:
        """Ask for suggestions and return them."""
        return self.client.request("textDocument/inlineCompletion", self.params(place, kind, selected))["items"]

    def reason(self) -> str:
        """Why the last request for this document was answered so."""
        return explain(self.client, self.uri)["latest"]["reason"]


def explain(client: Client, uri: str = "") -> Any:
    return client.request("workspace/executeCommand", {"command": "treeline.server.explain", "arguments": [uri]})


def position(place: Place) -> dict[str, int]:
    return {"line": place[0], "character": place[1]}


def span(start: Place, end: Place) -> dict[str, dict[str, int]]:
    return {"start": position(start), "end": position(end)}
