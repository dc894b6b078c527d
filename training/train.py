"""Train the target: a small Llama on Python with fill-in-the-middle, on the CPU, in about an hour.

Two worker processes with one thread each split every batch. Depth grows between phases without changing the function;
early phases use a sampled softmax. A checkpoint lets the same command resume; the data of a step depends on its number
alone. Progress goes to standard error, one JSON line per ten steps to ``train.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.multiprocessing as mp
from tokenizers import Tokenizer

from training.batches import BatchSource, Corpus
from training.common import TrainingError, default_cache, progress, require
from training.data import read_split
from training.exchange import Exchange
from training.layouts import Encoder
from training.loss import SampledVocabulary, cross_entropy
from training.model import Llama, LlamaShape, grow
from training.optimizer import Optimizer, Rates
from training.schedule import Phase, Plan, parse_phases

# The run that made the bundled target; each phase is STEPSxLENGTHxLAYERS, s = sampled softmax.
PHASES = "800x512x2s,1200x512x4s,1500x1024x8s,300x2048x8"
_HELDOUT_ROWS, _HELDOUT_LENGTH = 12, 512


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a worker needs to know."""

    cache: Path
    plan: Plan
    rates: Rates
    workers: int
    tokens: int  # per worker and step
    seed: int
    checkpoint_every: int
    name: str

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs go."""
        return self.cache / self.name


@dataclass(slots=True)
class State:
    """What changes while training."""

    model: Llama
    optimizer: Optimizer
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0


def load_encoder(cache: Path) -> Encoder:
    """The trained tokenizer, as an encoder of samples."""
    path = require(cache / "tokenizer" / "tokenizer.json", "python -m training.tokenizer")
    return Encoder(Tokenizer.from_file(str(path)))


def frequent_classes(source: BatchSource, vocabulary: int, count: int = 1500) -> torch.Tensor:
    """The ``count`` most frequent token ids in a sample of rows; int64 [count]."""
    rows = torch.tensor([source.row(-1 - i, 512) for i in range(400)])
    return torch.bincount(rows.flatten(), minlength=vocabulary).topk(count).indices


def start(job: Job, exchange: Exchange) -> State:
    """A fresh state, or the last checkpoint's."""
    torch.manual_seed(job.seed)
    model = Llama(replace(LlamaShape(), layers=job.plan.phases[0].layers))
    path = job.folder / "checkpoint.pt"
    if not path.exists():
        return State(model, Optimizer(model, job.rates, exchange))
    saved = torch.load(path, weights_only=True)
    model = Llama(replace(LlamaShape(), layers=saved["layers"]))
    model.load_state_dict(saved["model"])
    optimizer = Optimizer(model, job.rates, exchange)
    optimizer.load_state_dict(saved["optimizer"])
    return State(model, optimizer, saved["step"], saved["seconds"], saved["tokens"])


def save(job: Job, state: State) -> None:
    """Write the checkpoint in one rename."""
    path = job.folder / "checkpoint.pt"
    content = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "layers": len(state.model.layers),
        "step": state.step,
        "seconds": state.seconds,
        "tokens": state.tokens,
    }
    torch.save(content, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


@torch.no_grad()
def heldout_loss(model: Llama, source: BatchSource) -> float:
    """Mean loss in nats per token over fixed rows of the held-out packages (same sample mix)."""
    inputs, targets = source.batch(0, 0, 1, _HELDOUT_ROWS, _HELDOUT_LENGTH)
    return float(cross_entropy(model.hidden_states(inputs), model.embed_tokens, targets))


def set_depth(state: State, phase: Phase, job: Job, exchange: Exchange) -> None:
    """Grow the model to the phase's depth; old layers keep their momentum, new ones start without."""
    old = len(state.model.layers)
    if phase.layers == old:
        return
    before = state.optimizer.state_dict()
    state.model = grow(state.model, phase.layers)
    state.optimizer = Optimizer(state.model, job.rates, exchange)
    after = state.optimizer.state_dict()
    per_layer, factor = len(before["momenta"]) // old, phase.layers // old  # pyright: ignore[reportArgumentType]
    for index, momentum in enumerate(before["momenta"]):  # pyright: ignore[reportArgumentType]
        layer, leaf = divmod(index, per_layer)
        after["momenta"][layer * factor * per_layer + leaf].copy_(momentum)  # pyright: ignore[reportIndexIssue]


def worker(rank: int, job: Job, buffer: torch.Tensor, barrier: object) -> None:
    """Train until the plan's end in one process."""
    torch.set_num_threads(1)
    exchange = Exchange(rank, job.workers, buffer, barrier)  # pyright: ignore[reportArgumentType]
    encoder = load_encoder(job.cache)
    source = BatchSource(Corpus.of(read_split(job.cache, "train")), encoder, job.seed)
    heldout = BatchSource(Corpus.of(read_split(job.cache, "heldout")), encoder, job.seed)
    state = start(job, exchange)
    sampler = SampledVocabulary(frequent_classes(source, state.model.shape.vocabulary), extra=1024)
    log = (job.folder / "train.jsonl").open("a", encoding="utf-8") if rank == 0 else None
    window, begun = 0.0, time.perf_counter()
    while state.step < job.plan.steps:
        phase = job.plan.phase(state.step)
        set_depth(state, phase, job, exchange)
        loss = forward_backward(state, phase, source, sampler, job, rank)
        norm = state.optimizer.step(job.plan.scale(state.step))
        state.step += 1
        state.tokens += job.tokens * job.workers
        now = time.perf_counter()
        state.seconds, begun = state.seconds + now - begun, now
        window += loss / 10
        if log and state.step % 10 == 0:
            row = {"step": state.step, "loss": round(window, 4), "norm": round(norm, 3), "layers": phase.layers}
            row |= {"tokens": state.tokens, "seconds": round(state.seconds, 1)}
            if state.step % 100 == 0:
                row["heldout"] = round(heldout_loss(state.model, heldout), 4)
            log.write(json.dumps(row) + "\n")
            log.flush()
            progress(json.dumps(row))
            window = 0.0
        if rank == 0 and (state.step % job.checkpoint_every == 0 or state.step == job.plan.steps):
            save(job, state)


def forward_backward(
    state: State, phase: Phase, source: BatchSource, sampler: SampledVocabulary, job: Job, rank: int
) -> float:
    """One worker's share of a step; leaves gradients on the parameters and returns the loss."""
    inputs, targets = source.batch(state.step, rank, job.workers, job.tokens // phase.length, phase.length)
    hidden = state.model.hidden_states(inputs)
    if phase.sampled:
        generator = torch.Generator().manual_seed((job.seed * 1_000_003 + state.step) * job.workers + rank)
        loss = sampler.cross_entropy(hidden, state.model.embed_tokens, targets, generator)
    else:
        loss = cross_entropy(hidden, state.model.embed_tokens, targets)
    loss.backward()
    return float(loss.detach())


def run(job: Job) -> None:
    """Start the workers and wait for them."""
    job.folder.mkdir(parents=True, exist_ok=True)
    require(job.cache / "corpus" / "train.jsonl", "python -m training.data")
    deepest = max(phase.layers for phase in job.plan.phases)
    capacity = sum(p.numel() for p in Llama(replace(LlamaShape(), layers=deepest)).parameters())
    buffer = torch.zeros(job.workers, capacity).share_memory_()
    barrier = mp.get_context("spawn").Barrier(job.workers)
    mp.spawn(worker, (job, buffer, barrier), nprocs=job.workers)  # pyright: ignore[reportPrivateImportUsage]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--phases", default=PHASES, help="STEPSxLENGTHxLAYERS[s],... (default: %(default)s)")
    parser.add_argument("--decay-from", type=int, default=2600, help="step at which the learning rate starts to fall")
    parser.add_argument("--workers", type=int, default=2, help="processes; one per core")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per worker and step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=100)
    parser.add_argument("--name", default="target", help="folder under the cache for checkpoint.pt and train.jsonl")
    a = parser.parse_args()
    try:
        plan = Plan(parse_phases(a.phases), a.decay_from)
        run(Job(a.cache, plan, Rates(), a.workers, a.tokens, a.seed, a.checkpoint_every, a.name))
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
