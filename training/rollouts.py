"""Let the target write: prompts from the training data and its own sampled continuations, for distilling on-policy.

A drafter is asked for what comes after the target's own tokens, so some of what it learns from should be such text.
Writes ``rollouts.pt``, int32 [rows, 513], into the cache folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from training.batches import BatchSource, Corpus
from training.checkpoints import load_reference
from training.common import TrainingError, default_cache, progress, require
from training.data import read_split
from training.layouts import SampleMix
from training.trainer import load_encoder

LENGTH = 513
_FIRST_ROW = 20_000_000  # no training run comes this far
_BATCH = 32


@torch.inference_mode()
def continue_rows(model: Any, prompts: torch.Tensor, tokens: int, temperature: float) -> torch.Tensor:
    """Sample ``tokens`` more of each row; int64 [rows, length] -> [rows, length + tokens]."""
    ids, feed, cache = prompts, prompts, None
    for _ in range(tokens):
        output = model(feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        chances = torch.softmax(output.logits[:, -1].float() / temperature, dim=-1)
        feed = torch.multinomial(chances, 1)
        ids = torch.cat((ids, feed), dim=1)
    return ids


def _work(rank: int, a: argparse.Namespace, out: torch.Tensor) -> None:
    torch.set_num_threads(1)
    model = load_reference(a.target)
    source = BatchSource(Corpus.of(read_split(a.cache, "train")), load_encoder(a.cache), a.seed)
    mix = SampleMix(fim=0.8, suffix_first=1.0)
    begun = time.perf_counter()
    for first in range(rank * _BATCH, a.rows, a.workers * _BATCH):
        numbers = range(first, min(first + _BATCH, a.rows))
        torch.manual_seed(a.seed * 1_000_003 + first)
        prompts = torch.tensor([source.row(_FIRST_ROW + n, LENGTH - a.tokens - 1, mix) for n in numbers])
        out[first : first + len(numbers)] = continue_rows(model, prompts, a.tokens, a.temperature)
        if rank == 0:
            progress(f"{first + len(numbers)} of {a.rows} rows, {time.perf_counter() - begun:.0f} s")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.rollouts", description=__doc__)
    parser.add_argument("target", type=Path, help="Hugging Face folder of the target")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=320, help="rows to write (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="of each row that the target writes")
    parser.add_argument("--temperature", type=float, default=0.7, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes; one per core")
    parser.add_argument("--seed", type=int, default=3)
    a = parser.parse_args()
    try:
        load_encoder(a.cache)
        require(a.cache / "corpus" / "train.jsonl", "python -m training.data")
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    out = torch.zeros(a.rows, LENGTH, dtype=torch.int32).share_memory_()
    mp.spawn(_work, (a, out), nprocs=a.workers)  # pyright: ignore[reportPrivateImportUsage]
    torch.save(out.clone(), a.cache / "rollouts.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
