"""Loads the protocol's types in half the time. It is most of what a language server does before it answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast


def load() -> None:
    """Import lsprotocol.types without the comparisons and representations that attrs would write for each class.

    The specification has more than 500 of them, and for each attrs compiles code; a server compares and prints none.
    What is loaded already stays as it is. Only for a process that is a language server and nothing else.
    """
    import attrs

    module = cast("Any", attrs)
    define = cast("Callable[..., Any]", attrs.define)
    module.define = partial(define, eq=False, repr=False)
    try:
        import lsprotocol.types  # noqa: F401  # pyright: ignore[reportUnusedImport]
    finally:
        module.define = define
