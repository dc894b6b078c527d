"""Distil the drafter: a two-layer Llama that imitates the target's next-token distribution.

It starts from the target's embedding and two of its layers, or from an earlier drafter, and minimises KL(target ||
drafter) over the sampled softmax, on the target's data with more fill-in-the-middle and on what the target itself wrote
(training.rollouts). The same command resumes from the last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from training.batches import BatchSource
from training.checkpoints import write_start
from training.common import TrainingError, default_cache, progress, require
from training.layouts import SampleMix
from training.loss import SampledVocabulary, divergence, frequent_classes
from training.model import PRODUCTS, Llama, LlamaShape
from training.optimizer import Rates
from training.schedule import Phase, Plan, parse_knots, parse_phases
from training.trainer import Job, LossFunction, load_model, run

# The run that made the bundled drafter.
PHASES = "50x512x2s,30x1024x2s,60x2048x2s"
RATE = "0:0.05,10:0.6,60:0.5,140:0.02"
ROLLOUTS = 0.25
SOURCE_LAYERS = (0, 4)  # of the target: the two that the whole stack grew from


@dataclass(frozen=True, slots=True)
class Imitate:
    """KL divergence from the target's distribution."""

    teacher: Path
    frequent: int = 2500
    extra: int = 1024

    def prepare(self, source: BatchSource) -> LossFunction:
        """Load the target and find the frequent classes."""
        teacher = load_model(self.teacher).requires_grad_(False)
        teacher_weight = teacher.embed_tokens.to(PRODUCTS)
        rows = torch.tensor([source.row(-1 - i, 512, SampleMix()) for i in range(400)])
        sampler = SampledVocabulary(frequent_classes(rows, LlamaShape().vocabulary, self.frequent), self.extra)

        def loss(
            model: Llama, inputs: torch.Tensor, targets: torch.Tensor, phase: Phase, generator: torch.Generator
        ) -> torch.Tensor:
            with torch.no_grad():
                wanted = teacher.hidden_states(inputs)
            hidden = model.hidden_states(inputs)
            if not phase.sampled:
                bias = torch.zeros(teacher_weight.shape[0])
                return divergence(hidden, model.embed_tokens, bias, (wanted, teacher_weight))
            classes, bias = sampler.draw(teacher_weight.shape[0], targets, generator)
            return divergence(hidden, model.embed_tokens[classes], bias, (wanted, teacher_weight[classes]))

        return loss


def initialise(teacher: Path, folder: Path, layers: tuple[int, ...]) -> None:
    """Write ``initial.pt``: the target's embedding, final norm and the given layers."""
    state = load_model(teacher).state_dict()
    student: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if not name.startswith("layers."):
            student[name] = value
            continue
        _, index, leaf = name.split(".")
        if int(index) in layers:
            student[f"layers.{layers.index(int(index))}.{leaf}"] = value
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": student, "layers": len(layers)}, folder / "initial.pt")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.distill", description=__doc__)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--phases", default=PHASES, help="STEPSxLENGTHxLAYERS[s],... (default: %(default)s)")
    parser.add_argument("--rate", default=RATE, help="STEP:FACTOR,... of the learning rate (default: %(default)s)")
    parser.add_argument("--teacher", type=Path, help="the target's checkpoint.pt (default: the cache's)")
    parser.add_argument("--start", type=Path, help="Hugging Face folder of a drafter to go on from")
    parser.add_argument("--rollouts", type=float, default=ROLLOUTS, help="share of rows from training.rollouts")
    parser.add_argument(
        "--source-layers", type=int, nargs="+", default=SOURCE_LAYERS, help="target layers to start from"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes; one per core")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per worker and step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="drafter", help="folder under the cache for checkpoint.pt and train.jsonl")
    a = parser.parse_args()
    try:
        teacher = require(a.teacher or a.cache / "target" / "checkpoint.pt", "python -m training.train")
        plan = Plan(parse_phases(a.phases), parse_knots(a.rate))
        if a.rollouts:
            require(a.cache / "rollouts.pt", "python -m training.rollouts")
        if a.start:
            write_start(a.start, a.cache / a.name)
        else:
            initialise(teacher, a.cache / a.name, tuple(a.source_layers))
        mix = SampleMix(fim=0.7, suffix_first=0.9)
        rates = Rates(muon=0.01, embedding=0.002, norm=0.002)
        run(Job(a.cache, plan, rates, a.workers, a.tokens, a.seed, 50, a.name, Imitate(teacher), mix, a.rollouts))
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
