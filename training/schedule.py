"""The training plan: phases of (steps, sequence length, layers), and the learning rate's course."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from training.common import TrainingError


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps at one sequence length and depth; ``sampled``: the softmax runs over a sample of the vocabulary."""

    steps: int
    length: int
    layers: int
    sampled: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Phases in order, and the learning rate's factor as (step, factor) knots joined by straight lines."""

    phases: tuple[Phase, ...]
    knots: tuple[tuple[int, float], ...]

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return sum(phase.steps for phase in self.phases)

    def phase(self, step: int) -> Phase:
        """The phase that holds ``step``."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def scale(self, step: int) -> float:
        """Learning-rate factor at ``step``; constant beyond the first and the last knot."""
        if step <= self.knots[0][0]:
            return self.knots[0][1]
        for (left, low), (right, high) in pairwise(self.knots):
            if step <= right:
                return low + (high - low) * (step - left) / (right - left)
        return self.knots[-1][1]


def parse_knots(text: str) -> tuple[tuple[int, float], ...]:
    """Parse ``STEP:FACTOR,...`` with rising steps."""
    knots: list[tuple[int, float]] = []
    for item in text.split(","):
        step, _, factor = item.partition(":")
        try:
            knots.append((int(step), float(factor)))
        except ValueError:
            raise TrainingError(f"learning-rate knot {item!r} is not STEP:FACTOR") from None
    if any(left >= right for (left, _), (right, _) in pairwise(knots)):
        raise TrainingError(f"the steps of the learning-rate knots {text!r} do not rise")
    return tuple(knots)


def parse_phases(text: str) -> tuple[Phase, ...]:
    """Parse ``STEPSxLENGTHxLAYERS[s],...``; ``s``: sampled softmax."""
    phases: list[Phase] = []
    for item in text.split(","):
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)(s?)", item)
        if found is None:
            raise TrainingError(f"phase {item!r} is not STEPSxLENGTHxLAYERS with an optional s at its end")
        steps, length, layers = (int(number) for number in found.groups()[:3])
        phases.append(Phase(steps, length, layers, bool(found[4])))
    return tuple(phases)
