"""Treeline under the measuring protocol: its decoding loop on token ids, as the other libraries are run.

Settings of a job: `speculation` (bool) and `budget` (draft nodes per pass; absent: chosen from measured costs).
What the engine learns about costs is kept between jobs, as it is in use; the caches start empty every time.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import torch

from benchmarks.peers.protocol import Job, Reply, serve
from engine import __version__
from engine.decoding import Decoding, Speculation
from engine.engine import AUTO_NODES
from engine.kernels import cpu
from engine.model.loader import LoadOptions, load_transformer
from engine.model.transformer import Transformer, never
from engine.request import SamplingParams
from engine.roles import Draft, Target
from engine.speculation.budget import AutoBudget
from engine.speculation.drafter import ModelDrafter
from engine.speculation.frontier import AnyCost
from engine.speculation.ngram import NgramDrafter
from engine.tokenizer import Tokenizer


class Backend:
    """The pair, loaded as `treeline complete` loads it."""

    def __init__(self, target: Path, drafter: Path | None, memory: int | None, context: int | None) -> None:
        """Load the checkpoints; `drafter` None drafts from n-grams alone.

        With `memory`, weights and caches for `context` tokens stay within so many bytes.
        """
        self._tokenizer = Tokenizer.load(target)
        models = load_pair(target, drafter) if memory is None else load_pair_within(memory, target, drafter, context)
        self._target = Target(models[0])
        self._drafter = ModelDrafter(Draft(models[1], models[0].config.vocab_size)) if models[1] else None
        self._budget = AutoBudget()

    def complete(self, job: Job) -> Reply:
        """Step the decoding until `max_tokens` are out; end tokens are tokens like any other."""
        self._empty_caches()
        began = time.perf_counter()
        decoding = Decoding(self._target, self._tokenizer, job.prompt, SamplingParams(), self._speculation(job))
        tokens: list[int] = []
        first_count, first = 0, 0.0
        while len(tokens) < job.max_tokens and time.perf_counter() - began - first < job.seconds:
            tokens += decoding.step(job.max_tokens - len(tokens), never)
            if first_count == 0:
                first_count, first = len(tokens), time.perf_counter() - began
        total = time.perf_counter() - began
        kept = tuple(tokens[: job.max_tokens])
        return Reply(kept, min(first_count, job.max_tokens), first, total, decoding.counters.target_passes)

    def _speculation(self, job: Job) -> Speculation | None:
        if not job.settings["speculation"]:
            return None
        nodes = job.settings.get("budget")
        # n-grams of their own for each job: nothing may be copied from an earlier answer to the same prompt
        policy = AnyCost() if nodes else self._budget
        return Speculation(self._drafter, NgramDrafter(), policy, int(nodes or AUTO_NODES))

    def _empty_caches(self) -> None:
        self._target.reset([0])
        if self._drafter:
            self._drafter.reset([0])


def load_pair(target: Path, drafter: Path | None) -> tuple[Transformer, Transformer | None]:
    """Load both whole."""
    guesses = LoadOptions(guesses=True)
    return load_transformer(target, LoadOptions()), load_transformer(drafter, guesses) if drafter else None


def load_pair_within(
    memory: int, target: Path, drafter: Path | None, context: int | None
) -> tuple[Transformer, Transformer | None]:
    """Load them as `treeline complete --memory` does: layers that do not fit are streamed."""
    from engine.offload.load import load_within

    loaded = load_within(memory, target, drafter, context)
    return loaded.target, loaded.drafter


def main() -> None:
    """Worker process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, required=True, help="CPU threads")
    parser.add_argument("--target", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--drafter", type=Path, help="checkpoint folder; none: n-grams alone")
    parser.add_argument("--memory", type=int, help="bytes that weights and caches may take (default: no limit)")
    parser.add_argument("--context", type=int, help="with --memory: tokens that caches are for (default: the model's)")
    arguments = parser.parse_args()
    cpu.use_threads(arguments.threads, native_only=True)
    backend = Backend(arguments.target, arguments.drafter, arguments.memory, arguments.context)
    serve({"treeline": __version__, "python": platform.python_version(), "torch": torch.__version__}, backend.complete)


if __name__ == "__main__":
    main()
