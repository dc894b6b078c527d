"""The training plan: phases of (steps, sequence length, layers), and the warmup-stable-decay learning rate."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Phases in order, and where the learning rate starts to fall (linearly to ``floor`` of its peak)."""

    phases: tuple[Phase, ...]
    decay_from: int
    warmup: int = 40
    floor: float = 0.02

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
        """Learning-rate factor in (0, 1] at ``step``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if step < self.decay_from:
            return 1.0
        remaining = (self.steps - step) / max(1, self.steps - self.decay_from)
        return self.floor + (1 - self.floor) * remaining


def parse_phases(text: str) -> tuple[Phase, ...]:
    """Parse ``STEPSxLENGTHxLAYERS[s],...``; a trailing ``s`` asks for the sampled softmax."""
    phases: list[Phase] = []
    for item in text.split(","):
        try:
            steps, length, layers = (int(number) for number in item.removesuffix("s").split("x"))
        except ValueError:
            raise TrainingError(f"phase {item!r} is not STEPSxLENGTHxLAYERS with an optional trailing s") from None
        phases.append(Phase(steps, length, layers, item.endswith("s")))
    return tuple(phases)
