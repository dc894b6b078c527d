"""What the editor shows of Treeline's state: a notification for status lines, and progress while the model loads."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

from lsprotocol import types

from engine.request import CompletionStats
from lsp_server.engine_client import EngineState

if TYPE_CHECKING:
    from lsp_server.server import TreelineServer

STATUS = "treeline/status"
BUSY_SECONDS = 0.05  # work that is over sooner is not worth a notification
_KINDS = {"starting": "Normal", "loading": "Normal", "ready": "Normal", "failed": "Error"}


class Status:
    """Tells the client what changes."""

    def __init__(self, server: TreelineServer) -> None:
        self._server = server
        self._engine = EngineState()
        self._busy = False
        self._enabled = True
        self._stats: CompletionStats | None = None
        self._sent: dict[str, Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._token: str | None = None
        self._reporting = False

    def engine_changed(self, state: EngineState) -> None:
        """The engine is in another state."""
        self._engine = state
        self._send()
        self._progress(state)

    def busy_changed(self, busy: bool) -> None:
        """The engine works for this server, or does so no more."""
        self._busy = busy
        self._send_soon()

    def finished(self, stats: CompletionStats) -> None:
        """A completion has run to its end."""
        self._stats = stats
        self._send_soon()

    def enabled_changed(self, enabled: bool) -> None:
        """Suggestions were switched on or off."""
        self._enabled = enabled
        self._send()

    def as_json(self) -> dict[str, Any]:
        """Return what the notification says.

        `kind`: "Normal", "Error", or "Inactive" where suggestions are switched off. `state`: of the engine,
        with `done` of `total` layers while it loads. `tokensPerSecond`, `acceptedPerPass`: of the last completion.
        """
        engine, stats = self._engine, self._stats
        return {
            "kind": _KINDS[engine.kind] if self._enabled else "Inactive",
            "busy": self._busy,
            "message": engine.message or ("" if self._enabled else "suggestions are switched off"),
            "state": engine.kind,
            "model": engine.model,
            "phase": engine.phase,
            "done": engine.done,
            "total": engine.total,
            "tokensPerSecond": round(stats.tokens_per_second, 1) if stats else None,
            "acceptedPerPass": round(stats.accepted_per_pass, 2) if stats else None,
            "engineMemoryBytes": stats.peak_rss_bytes if stats else None,
        }

    def _send_soon(self) -> None:
        """Tell the client what holds when the bustle of a keystroke is over."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BUSY_SECONDS, self._later)

    def _later(self) -> None:
        self._timer = None
        self._send()

    def _send(self) -> None:
        content = self.as_json()
        if content != self._sent and self._server.can_notify:
            self._sent = content
            self._server.protocol.notify(STATUS, content)

    def _progress(self, state: EngineState) -> None:
        """Show a progress bar while the model loads, where the client can."""
        if state.kind == "loading" and self._token is None and self._server.shows_progress:
            self._token = f"treeline-{uuid.uuid4()}"
            params = types.WorkDoneProgressCreateParams(self._token)
            self._server.protocol.send_request(types.WINDOW_WORK_DONE_PROGRESS_CREATE, params, self._created)
        elif self._token is not None and self._reporting:
            self._report(self._token, state)

    def _created(self, _: object) -> None:
        if self._token is None:
            return
        title = f"Treeline: loading {self._engine.model}"
        begin = types.WorkDoneProgressBegin(title=title, cancellable=False, percentage=0)
        self._server.work_done_progress.begin(self._token, begin)
        self._reporting = True
        self._report(self._token, self._engine)

    def _report(self, token: str, state: EngineState) -> None:
        if state.kind == "loading":
            percentage = 100 * state.done // state.total if state.total else 0
            message = f"{state.phase}: layer {state.done} of {state.total}" if state.total else state.phase
            report = types.WorkDoneProgressReport(message=message, percentage=percentage)
            self._server.work_done_progress.report(token, report)
        else:
            message = "ready" if state.kind == "ready" else state.message
            self._server.work_done_progress.end(token, types.WorkDoneProgressEnd(message=message))
            self._token, self._reporting = None, False
