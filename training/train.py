"""Train the target: a small Llama on Python with fill-in-the-middle, on the CPU, in about an hour.

Depth grows between phases without changing the function; early phases use a sampled softmax. The same command resumes
from the last checkpoint. Progress goes to standard error, one JSON line per ten steps to ``train.jsonl``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from training.batches import BatchSource
from training.checkpoints import write_start
from training.common import TrainingError, default_cache, progress
from training.layouts import SampleMix
from training.loss import SampledVocabulary, cross_entropy, frequent_classes, scored
from training.model import Llama, LlamaShape
from training.optimizer import Rates
from training.schedule import Phase, Plan, parse_knots, parse_phases
from training.trainer import Job, LossFunction, run

# The run that made the bundled target; each phase is STEPSxLENGTHxLAYERS, s = sampled softmax, f = first format.
PHASES = "600x512x8s,750x1024x8s,150x2048x8s,50x2048x8"
# Warm-up, then a fall all the way: STEP:FACTOR, joined by straight lines.
RATE = "0:0.02,40:0.25,900:0.137,1550:0.01"
# What all later phases are fed.
MIX = SampleMix(fim=0.65, suffix_first=0.85)


@dataclass(frozen=True, slots=True)
class NextToken:
    """Cross-entropy of the next token, over all tokens of a row."""

    frequent: int = 1500
    extra: int = 1024

    def prepare(self, source: BatchSource) -> LossFunction:
        """Find the frequent classes."""
        rows = torch.tensor([source.row(-1 - i, 512, MIX) for i in range(400)])
        sampler = SampledVocabulary(frequent_classes(rows, LlamaShape().vocabulary, self.frequent), self.extra)

        def loss(
            model: Llama, inputs: torch.Tensor, targets: torch.Tensor, phase: Phase, generator: torch.Generator
        ) -> torch.Tensor:
            hidden, targets = scored(model.hidden_states(inputs), targets)
            if phase.sampled:
                return sampler.cross_entropy(hidden, model.embed_tokens, targets, generator)
            return cross_entropy(hidden, model.embed_tokens, targets)

        return loss


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--phases", default=PHASES, help="STEPSxLENGTHxLAYERS[s][f],... (default: %(default)s)")
    parser.add_argument("--rate", default=RATE, help="STEP:FACTOR,... of the learning rate (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes; one per core")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per worker and step")
    parser.add_argument("--start", type=Path, help="Hugging Face folder, AWQ or not, whose weights to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=100)
    parser.add_argument("--name", default="target", help="folder under the cache for checkpoint.pt and train.jsonl")
    a = parser.parse_args()
    try:
        plan = Plan(parse_phases(a.phases), parse_knots(a.rate))
        if a.start:
            write_start(a.start, a.cache / a.name)
        run(Job(a.cache, plan, Rates(), a.workers, a.tokens, a.seed, a.checkpoint_every, a.name, NextToken(), MIX))
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
