"""Measure the pair on the held-out packages, through transformers: loss, bits per byte, line exact match, agreement.

Everything is of Python; the other languages' bits per byte stand beside it.

Prints one JSON object. Works on fp32, fp16 and AWQ folders (AWQ weights are dequantised by AutoAWQ's code).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.batches import BatchSource, Corpus
from training.checkpoints import load_reference
from training.common import TrainingError, default_cache, progress
from training.data import Document, read_split
from training.layouts import Encoder, SampleMix
from training.lines import line_exact_match, make_cases
from training.trainer import load_encoder

_WINDOW = 1024
_RANKS = 8


@dataclass(frozen=True, slots=True)
class TextLoss:
    """Loss over whole files in windows of 1024 tokens; the first token of a window is not scored."""

    nats_per_token: float
    bits_per_byte: float
    tokens: int
    bytes: int


@torch.inference_mode()
def text_loss(model: Any, encoder: Encoder, documents: list[Document], limit: int) -> TextLoss:
    """Score up to ``limit`` windows, evenly spread over the documents."""
    windows: list[list[int]] = []
    for document in documents:
        ids = encoder.encode(document.text)
        windows += [ids[i : i + _WINDOW] for i in range(0, len(ids) - 1, _WINDOW)]
    windows = windows[:: max(1, len(windows) // limit)]
    nats, tokens, size = 0.0, 0, 0
    for window in windows:
        ids = torch.tensor([window])
        logits = model(ids).logits[0, :-1].float()
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        tokens += len(window) - 1
        size += len(encoder.decode(window[1:]).encode())
    return TextLoss(nats / tokens, nats / math.log(2) / size, tokens, size)


@torch.inference_mode()
def loss_by_position(model: Any, encoder: Encoder, documents: list[Document], length: int) -> list[float]:
    """Nats per token in eighths of windows of ``length`` tokens from the beginnings of the files that have so many."""
    nats: list[torch.Tensor] = []
    for document in documents:
        ids = torch.tensor([encoder.encode(document.text)[: length + 1]])
        if ids.shape[1] == length + 1:
            logits = model(ids[:, :-1]).logits[0].float()
            nats.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    if not nats:
        return []
    return [round(float(part.mean()), 3) for part in torch.stack(nats).chunk(8, dim=1)]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often the target's argmax is the drafter's i-th choice, for i = 1..8."""

    positions: int
    ranks: tuple[float, ...]


@torch.inference_mode()
def agreement(target: Any, drafter: Any, encoder: Encoder, documents: list[Document], rows: int) -> Agreement:
    """Compare both on the text after the suffix (prefix and middle) in suffix-first samples, rows of 512 tokens."""
    mix = SampleMix(fim=1.0, suffix_first=1.0, empty_suffix=0.1)
    source = BatchSource(Corpus.of(documents), encoder, 7)
    hits, positions = torch.zeros(_RANKS), 0
    for row in range(rows):
        ids = torch.tensor([source.row(row, 512, mix)])
        inside = continued_positions(ids[0], encoder)
        wanted = target(ids).logits[0, inside].argmax(dim=-1, keepdim=True)
        offered = drafter(ids).logits[0, inside].topk(_RANKS).indices
        hits += (offered == wanted).float().sum(dim=0)
        positions += inside.numel()
    return Agreement(positions, tuple(round(float(h) / positions, 4) for h in hits))


def continued_positions(ids: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    """Indices from ``<|fim_middle|>`` to the token before the sample's last; int64 [n]."""
    chosen: list[int] = []
    inside = False
    for index, token in enumerate(ids.tolist()):
        inside = token == encoder.middle or (inside and token not in (encoder.end, encoder.pad))
        if inside:
            chosen.append(index)
    return torch.tensor(chosen, dtype=torch.int64)


def by_language(documents: list[Document]) -> dict[str, list[Document]]:
    """The documents of each language."""
    languages: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        languages[document.language].append(document)
    return languages


def evaluate(a: argparse.Namespace) -> dict[str, Any]:
    """Run what the arguments ask for."""
    encoder, everything = load_encoder(a.cache), read_split(a.cache, "heldout")
    documents = [document for document in everything if document.language == "python"]
    target = load_reference(a.target)
    loss = text_loss(target, encoder, documents, a.windows)
    result: dict[str, Any] = {
        "target": a.target.name,
        "nats_per_token": round(loss.nats_per_token, 4),
        "bits_per_byte": round(loss.bits_per_byte, 4),
        "tokens": loss.tokens,
        "bytes": loss.bytes,
        "bits_per_byte_of": {
            language: round(text_loss(target, encoder, chosen, a.windows).bits_per_byte, 4)
            for language, chosen in by_language(everything).items()
            if language != "python"
        },
    }
    if a.positions:
        result["nats_by_eighth"] = loss_by_position(target, encoder, documents, a.positions)
    if a.cases:
        score = line_exact_match(target, encoder, make_cases(documents, a.cases, a.seed))
        result["line_exact_match"] = {kind: f"{right}/{total}" for kind, (right, total) in score.items()}
    if a.drafter:
        ranks = agreement(target, load_reference(a.drafter), encoder, documents, a.rows)
        result["agreement"] = {"positions": ranks.positions, "target_argmax_is_choice": ranks.ranks}
    return result


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("target", type=Path, help="Hugging Face folder to measure")
    parser.add_argument("--drafter", type=Path, help="also measure how often this drafter agrees with the target")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=1_000_000, help="at most this many windows of 1024 tokens")
    parser.add_argument("--cases", type=int, default=100, help="line completions per kind; 0 skips them")
    parser.add_argument("--positions", type=int, help="also the loss over windows of so many tokens, in eighths")
    parser.add_argument("--rows", type=int, default=60, help="rows of 512 tokens for the agreement")
    parser.add_argument("--seed", type=int, default=0)
    try:
        print(json.dumps(evaluate(parser.parse_args())))
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
