"""The training loop shared by target and drafter: workers, checkpoints, growth in depth, logging.

Worker processes with one thread each split every batch. A checkpoint lets the same command resume; the data of a step
depends on its number alone. Progress goes to standard error, one JSON line per ten steps to ``train.jsonl``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
import torch.multiprocessing as mp
from tokenizers import Tokenizer

from training.batches import BatchSource, Corpus
from training.common import progress, require
from training.data import read_split
from training.exchange import Exchange
from training.layouts import Encoder, SampleMix
from training.loss import cross_entropy, scored
from training.model import PRODUCTS, Llama, LlamaShape, grow
from training.optimizer import Optimizer, Rates
from training.schedule import Phase, Plan

_HELDOUT_ROWS, _HELDOUT_LENGTH = 12, 512

# (model, inputs, targets, phase, generator) -> loss; tensors int64 [rows, length]
LossFunction = Callable[[Llama, torch.Tensor, torch.Tensor, Phase, torch.Generator], torch.Tensor]


class Objective(Protocol):
    """What is minimised; travels to the workers, each of which prepares its own loss function."""

    def prepare(self, source: BatchSource) -> LossFunction:
        """Load what the loss needs."""
        ...


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
    objective: Objective
    mix: SampleMix = field(default_factory=SampleMix)
    rollouts: float = 0.0  # share of the rows that come from rollouts.pt

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


def start(job: Job, exchange: Exchange) -> State:
    """The last checkpoint's state, else that of ``initial.pt`` at step 0, else random weights."""
    path = job.folder / "checkpoint.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model = load_model(path)
        optimizer = Optimizer(model, job.rates, exchange)
        optimizer.load_state_dict(saved["optimizer"])
        return State(model, optimizer, saved["step"], saved["seconds"], saved["tokens"])
    if (job.folder / "initial.pt").exists():
        model = load_model(job.folder / "initial.pt")
    else:
        torch.manual_seed(job.seed)
        model = Llama(replace(LlamaShape(), layers=job.plan.phases[0].layers))
    return State(model, Optimizer(model, job.rates, exchange))


def load_model(path: Path, dtype: torch.dtype = PRODUCTS) -> Llama:
    """The model of a checkpoint; ``dtype`` of its matrix products."""
    saved = torch.load(path, weights_only=True)
    model = Llama(replace(LlamaShape(), layers=saved["layers"]), dtype)
    model.load_state_dict(saved["model"])
    return model


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
    inputs, targets = source.batch(0, 0, 1, _HELDOUT_ROWS, _HELDOUT_LENGTH, SampleMix())
    hidden, targets = scored(model.hidden_states(inputs), targets)
    return float(cross_entropy(hidden, model.embed_tokens, targets))


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
    rollouts = torch.load(job.cache / "rollouts.pt", weights_only=True) if job.rollouts else None
    source = BatchSource(Corpus.of(read_split(job.cache, "train")), encoder, job.seed, rollouts, job.rollouts)
    heldout = BatchSource(Corpus.of(read_split(job.cache, "heldout")), encoder, job.seed)
    loss_function = job.objective.prepare(source)
    state = start(job, exchange)
    window, begun = 0.0, time.perf_counter()
    while state.step < job.plan.steps:
        phase = job.plan.phase(state.step)
        set_depth(state, phase, job, exchange)
        inputs, targets = source.batch(state.step, rank, job.workers, job.tokens // phase.length, phase.length, job.mix)
        generator = torch.Generator().manual_seed((job.seed * 1_000_003 + state.step) * job.workers + rank)
        loss = loss_function(state.model, inputs, targets, phase, generator)
        loss.backward()
        norm = state.optimizer.step(job.plan.scale(state.step))
        state.step += 1
        state.tokens += job.tokens * job.workers
        now = time.perf_counter()
        state.seconds, begun = state.seconds + now - begun, now
        window += float(loss.detach()) / 10
        if rank == 0 and state.step % 10 == 0:
            report(job, state, heldout, window, norm)
        window = 0.0 if state.step % 10 == 0 else window
        if rank == 0 and (state.step % job.checkpoint_every == 0 or state.step == job.plan.steps):
            save(job, state)


def report(job: Job, state: State, heldout: BatchSource, loss: float, norm: float) -> None:
    """Append one line to the log, with the held-out loss every hundred steps."""
    row: dict[str, float | int] = {"step": state.step, "loss": round(loss, 4), "norm": round(norm, 3)}
    row |= {"layers": len(state.model.layers), "tokens": state.tokens, "seconds": round(state.seconds, 1)}
    if state.step % 100 == 0:
        row["heldout"] = round(heldout_loss(state.model, heldout), 4)
    line = json.dumps(row)
    with (job.folder / "train.jsonl").open("a", encoding="utf-8") as log:
        log.write(line + "\n")
    progress(line)


def run(job: Job) -> None:
    """Start the workers and wait for them."""
    job.folder.mkdir(parents=True, exist_ok=True)
    require(job.cache / "corpus" / "train.jsonl", "python -m training.data")
    deepest = max(phase.layers for phase in job.plan.phases)
    capacity = sum(p.numel() for p in Llama(replace(LlamaShape(), layers=deepest)).parameters())
    buffer = torch.zeros(job.workers, capacity).share_memory_()
    barrier = mp.get_context("spawn").Barrier(job.workers)
    mp.spawn(worker, (job, buffer, barrier), nprocs=job.workers)  # pyright: ignore[reportPrivateImportUsage]
