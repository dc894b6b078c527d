"""The server's log, on standard error: what happened, and nothing of what the user wrote."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback


class _Private(logging.Formatter):
    """Leaves out arguments of libraries' messages and the texts of exceptions: both quote documents."""

    def format(self, record: logging.LogRecord) -> str:
        own = record.name.startswith(("lsp_server", "engine"))
        message = record.getMessage() if own else str(record.msg)
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower()} {record.name}: {message}"
        if record.exc_info and record.exc_info[0]:
            places = "".join(traceback.format_list(traceback.extract_tb(record.exc_info[2])))
            line += f"\n{record.exc_info[0].__name__} at\n{places.rstrip()}"
        return line


def _telling(record: logging.LogRecord) -> bool:
    """Whether a message is news: libraries also report what happens whenever somebody types fast.

    A cancel notification that crosses its request's answer is no fault. Neither is data for a connection whose reader
    has been cancelled a moment ago: anyio then completes a future that is done, in a callback nobody depends on.
    """
    if record.name == "pygls.protocol.json_rpc" and str(record.msg).startswith("Cancel notification for unknown"):
        return False
    kind = record.exc_info[0] if record.exc_info else None
    return not (record.name == "asyncio" and kind is asyncio.InvalidStateError)


def start(level: str) -> None:
    """Log to standard error from `level` on; libraries only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Private())
    handler.addFilter(_telling)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("lsp_server").setLevel(level.upper())
    logging.captureWarnings(True)
