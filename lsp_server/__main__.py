"""The command `treeline-lsp`, also as `python -m lsp_server`: the language server on standard input and output."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from engine import __version__
from engine.errors import TreelineError
from engine.extras import installing

if TYPE_CHECKING:
    from lsp_server.protocol import Protocol

_NEEDED = ("httpx", "pygls")
_M_MMAP_THRESHOLD = -3  # of malloc.h


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one editor until it ends the session; return the exit status."""
    if sys.stderr is None:  # closed: what is said there must not reach the editor, which may have its number by then
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    options = _parse(arguments)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"treeline-lsp: {', '.join(missing)} is missing: {installing('server', 'lsp')}", file=sys.stderr)
        return 1
    _give_back_memory()
    gc.disable()  # nothing that is loaded is garbage
    from lsp_server import lean_types

    lean_types.load()
    from lsp_server import logs
    from lsp_server.features import register
    from lsp_server.server import TreelineServer

    logs.start(options.log_level)
    server = TreelineServer(__version__, options.config)
    register(server)
    gc.freeze()
    gc.enable()
    try:
        return asyncio.run(_serve(server.protocol, options))
    except TreelineError as error:
        print(f"treeline-lsp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _give_back_memory() -> None:
    """Have glibc return large blocks when they are freed.

    Every edit makes a new list of lines. Once such a block was freed, glibc takes the next ones from its heap, which
    they fragment; it does not learn so if the threshold is set, even to what it is.
    """
    if sys.platform == "linux":
        import ctypes

        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


async def _serve(protocol: Protocol, options: argparse.Namespace) -> NoReturn:
    from lsp_server import transport

    if options.tcp:
        await transport.serve_tcp(protocol, *options.tcp)
    elif options.ws:
        await transport.serve_ws(protocol, *options.ws)
    else:
        await transport.serve_stdio(protocol)
    # At once: threads that look at files or read from the editor are not waited for.
    sys.stderr.flush()
    os._exit(0 if protocol.ended else 1)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="treeline-lsp", description="Treeline's language server: inline completion for editors, over stdio."
    )
    parser.add_argument("--version", action="version", version=f"treeline-lsp {__version__}")
    parser.add_argument("--stdio", action="store_true", help="standard input and output; the default")
    parser.add_argument("--tcp", type=_address, metavar="HOST:PORT", help="listen for one editor here instead")
    parser.add_argument("--ws", type=_address, metavar="HOST:PORT", help="the same over WebSocket")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the engine's configuration, if not the usual file")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="of standard error"
    )
    parser.add_argument("--clientProcessId", type=int, help=argparse.SUPPRESS)  # sent by some clients
    return parser.parse_args(arguments)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HOST:PORT, such as 127.0.0.1:8765")
    return host.strip("[]") or "127.0.0.1", int(port)


if __name__ == "__main__":
    sys.exit(main())
