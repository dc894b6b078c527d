"""What the recorder has written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ASK = "textDocument/inlineCompletion"


@dataclass(frozen=True, slots=True)
class Entry:
    """One message. `at`: seconds since the epoch."""

    sender: str
    at: float
    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request for suggestions and its answer. `items`: the texts, None if the answer was an error."""

    uri: str
    sent: float
    answered: float
    invoked: bool
    items: list[str] | None


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorder's file, which grows."""

    path: Path

    def entries(self) -> list[Entry]:
        """Return all that there is by now."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        found = [json.loads(line) for line in lines]
        return [Entry(each["from"], each["at"], each["message"]) for each in found]

    def servers(self) -> list[int]:
        """Return the process ids of the servers, in the order of their starts."""
        return [each.message["pid"] for each in self.entries() if each.sender == "recorder"]

    def exchanges(self) -> list[Exchange]:
        """Return the requests for suggestions that have been answered."""
        found: list[Exchange] = []
        asked: dict[int, Entry] = {}
        for entry in self.entries():
            number = entry.message.get("id")
            if entry.sender == "client" and entry.message.get("method") == ASK and isinstance(number, int):
                asked[number] = entry
            elif entry.sender == "server" and "method" not in entry.message and number in asked:
                request = asked.pop(number)
                params, result = request.message["params"], entry.message.get("result")
                items = [each["insertText"] for each in result["items"]] if result else None
                invoked = params["context"]["triggerKind"] == 1
                found.append(Exchange(params["textDocument"]["uri"], request.at, entry.at, invoked, items))
        return found

    def sent(self, method: str) -> list[dict[str, Any]]:
        """Return the parameters of the client's messages of one kind."""
        messages = [each.message for each in self.entries() if each.sender == "client"]
        return [each.get("params", {}) for each in messages if each.get("method") == method]

    def statuses(self) -> list[dict[str, Any]]:
        """Return what the server said of its state."""
        messages = [each.message for each in self.entries() if each.sender == "server"]
        return [each["params"] for each in messages if each.get("method") == "treeline/status"]


def until(condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = 60) -> Any:
    """Return the first true value of `condition`, which another process makes true; if in vain, say `what`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what if isinstance(what, str) else what()}: not within {seconds:.0f} s")
        time.sleep(0.05)
    return value
