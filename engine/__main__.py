"""The command `treeline`, also as `python -m engine`: catches Ctrl-C from the first import on."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line and return its exit status."""
    _open_standard_streams()
    try:
        if sys.argv[1:2] == ["complete"]:
            from engine.cli_complete import quick

            status = quick(sys.argv[2:])
            if status is not None:
                return status
        from engine.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130


def _open_standard_streams() -> None:
    """Put the null device where a standard stream is closed, before another file takes its number.

    Python leaves None there: `print` then goes elsewhere, and libraries fail in ways of their own.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))


if __name__ == "__main__":
    sys.exit(main())
