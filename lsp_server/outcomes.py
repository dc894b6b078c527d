"""Why a request was answered as it was: one reason each, kept for whoever asks "why no suggestion?"."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Literal

REMEMBERED = 100

Kind = Literal[
    "answered",  # by the model
    "typed through",  # from a suggestion made before
    "branch",  # from what the model verified beside a suggestion
    "prefetched",  # from what was computed behind an accepted suggestion
    "nothing",  # the model has nothing to say, or it repeats what stands there
    "declined",  # the drafter is not sure enough for waking the target
    "rule",  # a keystroke here should not ask
    "superseded",  # a newer request for the document came
    "cancelled",  # by the editor
    "disabled",
    "excluded",  # a file that Treeline does not read
    "loading",
    "engine error",
    "unknown document",
]
WITHOUT_PASS: tuple[Kind, ...] = ("typed through", "branch", "prefetched")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended. `stages`: milliseconds from its arrival to the end of each stage. Holds no text."""

    kind: Kind
    detail: str = ""
    uri: str = ""
    version: int | None = None
    invoked: bool = False
    characters: int = 0
    stages: tuple[tuple[str, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as clients see it."""
        return {
            "reason": self.kind,
            "detail": self.detail,
            "uri": self.uri,
            "version": self.version,
            "invoked": self.invoked,
            "characters": self.characters,
            "stages": {name: round(ms, 2) for name, ms in self.stages},
        }

    def as_line(self) -> str:
        """Return it as a person reads it."""
        times = ", ".join(f"{name} {ms:.0f} ms" for name, ms in self.stages)
        return f"{self.kind}{f': {self.detail}' if self.detail else ''}{f' ({times})' if times else ''}"


@dataclass(slots=True)
class Stopwatch:
    """When the stages of a request ended."""

    began: float = field(default_factory=time.perf_counter)
    stages: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])

    def mark(self, stage: str) -> None:
        """A stage has ended."""
        self.stages.append((stage, 1000 * (time.perf_counter() - self.began)))


class Outcomes:
    """The latest outcomes, and how many there were of each kind."""

    def __init__(self) -> None:
        self.recent: deque[Outcome] = deque(maxlen=REMEMBERED)
        self.counts: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Note how a request ended."""
        self.recent.append(outcome)
        self.counts[outcome.kind] += 1

    def latest(self, uri: str = "") -> Outcome | None:
        """Return the last outcome, of a document if `uri` names one."""
        return next((each for each in reversed(self.recent) if uri in ("", each.uri)), None)
