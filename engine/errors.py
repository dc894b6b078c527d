"""Errors that a user can meet. Standard library only."""

from __future__ import annotations


class TreelineError(Exception):
    """A failure with one clear line: what happened, which file, key or value, and what to do next."""


class ContextOverflowError(TreelineError):
    """A conversation leaves no room for an answer: some of it has to go, and whoever holds it says what."""


class EngineEndedError(TreelineError):
    """The process in the background ends again and again while it loads: starting it once more would not help."""


class EngineFaultError(TreelineError):
    """Something is wrong with the machine or with the model's files, not with what was asked."""


class MemoryFullError(EngineFaultError):
    """The machine has no more memory of the kind that was needed."""


class Cancelled(Exception):  # noqa: N818 - a signal, not an error
    """A pass was abandoned between two layers; nothing of it was committed."""
