"""How fast somebody types and how fast the engine answers: what decides how long to wait before asking."""

from __future__ import annotations

import statistics
from collections import deque

LATEST = 5  # answers, the median of which is what the next one will cost: one slow answer must not count for long
RATE = 0.2  # weight of one new observation
PAUSE_SECONDS = 1.5  # a longer gap is no part of typing
LONGEST_SECONDS = 0.3
USUAL_GAP_SECONDS = 0.15


class Pace:
    """What was seen lately, in seconds."""

    def __init__(self) -> None:
        self.gap = USUAL_GAP_SECONDS
        self._costs: deque[float] = deque(maxlen=LATEST)
        self._last: float | None = None

    def keystroke(self, now: float) -> None:
        """Note a keystroke at `now`, in seconds of any steady clock."""
        if self._last is not None and 0 < now - self._last < PAUSE_SECONDS:
            self.gap += RATE * (now - self._last - self.gap)
        self._last = now

    def answered(self, seconds: float) -> None:
        """Note how long the first text of a completion took."""
        self._costs.append(seconds)

    @property
    def cost(self) -> float:
        """How long the first text of a completion takes; 0 while nobody knows."""
        return statistics.median(self._costs) if self._costs else 0.0

    def delay(self) -> float:
        """Return how long to wait after a keystroke.

        An answer that comes well within the gap to the next key is worth asking for at once. One that would come after
        it is not, unless typing has paused: longer than the usual gap, and no longer than the answer takes.
        """
        if self.cost < self.gap / 4:
            return 0.0
        return min(1.5 * self.gap, self.cost, LONGEST_SECONDS)
