"""How a command ends: its exit status, and one line on standard error for whatever went wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator

from engine.errors import TreelineError
from engine.terminal import abandon_stdout, use_utf8

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(Exception):
    """An option that cannot be what it is. Whoever parsed the command line says it as the command line does."""

    def __init__(self, option: str, complaint: str) -> None:
        super().__init__(f"{option}: {complaint}")
        self.option = option
        self.complaint = complaint


def option_name(field: str) -> str:
    """Return the option that sets a field."""
    return "--" + field.replace("_", "-")


def of_field(error: TreelineError) -> UsageError:
    """Turn "field is value: it must be ..." into the same complaint about an option."""
    field, _, complaint = str(error).partition(" ")
    return UsageError(option_name(field), complaint.removeprefix("is "))


def guarded(run: Callable[[], object]) -> int:
    """Run a command and return its exit status. Only UsageError gets through."""
    try:
        use_utf8()
        status = run()
        sys.stdout.flush()
    except UsageError:
        raise
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # typer and rich turn the former into the latter, and nothing else
        abandon_stdout()  # the reader has all that it wanted
        return DONE
    except TreelineError as error:
        return complain(str(error), FAILED)
    except OSError as error:  # a full disk, a folder that may not be written
        abandon_stdout()
        return complain(f"the system refused: {error}", FAILED)
    except MemoryError:
        return complain("out of memory: close other programs or choose a smaller model", FAILED)
    except Exception as error:  # noqa: BLE001 - the last resort: no user should meet a traceback
        if os.environ.get("TREELINE_DEBUG"):
            import traceback

            traceback.print_exc()
        detail = f"{type(error).__name__}: {error}"
        return complain(f"internal error ({detail}): please report it with the output under TREELINE_DEBUG=1", FAILED)
    return status if isinstance(status, int) else DONE


@contextlib.contextmanager
def leaving_at_ctrl_c() -> Generator[None]:
    """End the process at once at Ctrl-C. For imports: libraries in C make errors of their own of an exception then."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # nobody's wish, or somebody else's work
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)


def complain(message: str, status: int) -> int:
    """Print the one line, and return `status`."""
    print("treeline:", " ".join(message.split()), file=sys.stderr)
    return status
