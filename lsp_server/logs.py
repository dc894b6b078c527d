"""The server's log, on standard error: what happened, and nothing of what the user wrote."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback

from pygls.exceptions import JsonRpcException


class _Private(logging.Formatter):
    """Leaves out what quotes documents: arguments of libraries' messages, the texts of exceptions.

    Of a message of several lines, such as asyncio's, the first is kept: the others show the exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        own = record.name.startswith(("lsp_server", "engine"))
        message = record.getMessage() if own else str(record.msg).partition("\n")[0]
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower()} {record.name}: {message}"
        if record.exc_info and record.exc_info[0]:
            places = "".join(traceback.format_list(traceback.extract_tb(record.exc_info[2])))
            line += f"\n{record.exc_info[0].__name__} at\n{places.rstrip()}"
        return line


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message says more than what happens whenever somebody types fast.

    That a client was refused, the client knows. Data for a connection whose reader was cancelled a moment ago makes
    anyio complete a future that is done, in a callback nobody depends on.
    """
    kind = record.exc_info[0] if record.exc_info else None
    if record.name == "asyncio" and kind is asyncio.InvalidStateError:
        return False
    return not (kind and issubclass(kind, JsonRpcException))


def start(level: str) -> None:
    """Log to standard error from `level` on; libraries only from warnings on, the protocol's only errors."""
    logging.raiseExceptions = False  # it prints the arguments of what cannot be formatted
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Private())
    handler.addFilter(_is_news)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("lsp_server").setLevel(level.upper())
    logging.getLogger("pygls").setLevel(logging.ERROR)  # it warns of every cancellation that comes too late
    logging.captureWarnings(True)
