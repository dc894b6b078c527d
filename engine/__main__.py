"""The command `treeline`, also as `python -m engine`: catches Ctrl-C from the first import on."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit status."""
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


if __name__ == "__main__":
    sys.exit(main())
