"""Runs peers side by side: first the best setting of each on a few cases, then all cases, the peers taking turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.protocol import Job, Reply, Worker
from benchmarks.peers.rows import Peer

Workers = Mapping[str, Worker]
Prompt = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tuned:
    """A peer with its fastest settings; `tried` holds the median tokens per second of every variant, in their order."""

    peer: Peer
    settings: Mapping[str, Any]
    tried: Sequence[float]


@dataclass(frozen=True, slots=True)
class Run:
    """Replies by peer, one per case and in the order of the cases."""

    tuned: Sequence[Tuned]
    replies: Mapping[str, Sequence[Reply]]


def rate(reply: Reply) -> float:
    """Tokens per second of wall time, reading the prompt included."""
    return len(reply.tokens) / reply.total_s


def decode_rate(reply: Reply) -> float | None:
    """Tokens per second from the end of the first pass on; None when that pass gave all of them."""
    rest = len(reply.tokens) - reply.first_count
    return rest / (reply.total_s - reply.first_s) if rest else None


def tune(workers: Workers, peer: Peer, prompts: Sequence[Prompt], max_tokens: int) -> Tuned:
    """Try every variant on `prompts`, taking turns; the first prompt warms each up, uncounted."""
    for settings in peer.variants:
        workers[peer.worker].complete(Job(prompts[0], max_tokens, settings))
    rates: list[list[float]] = [[] for _ in peer.variants]
    for prompt in prompts:
        for settings, found in zip(peer.variants, rates, strict=True):
            found.append(rate(workers[peer.worker].complete(Job(prompt, max_tokens, settings))))
    tried = [statistics.median(found) for found in rates]
    return Tuned(peer, peer.variants[tried.index(max(tried))], tried)


def measure(
    workers: Workers, tuned: Sequence[Tuned], prompts: Sequence[Prompt], max_tokens: int, progress: Callable[[], None]
) -> Run:
    """Run every case with every peer; each case begins with another peer."""
    replies: dict[str, list[Reply]] = {row.peer.name: [] for row in tuned}
    for number, prompt in enumerate(prompts):
        turn = number % len(tuned)
        for row in (*tuned[turn:], *tuned[:turn]):
            reply = workers[row.peer.worker].complete(Job(prompt, max_tokens, row.settings))
            replies[row.peer.name].append(reply)
        progress()
    return Run(tuned, replies)


def agreement(tokens: Sequence[int], reference: Sequence[int]) -> int:
    """Tokens before the first difference."""
    pairs = zip(tokens, reference, strict=False)
    return next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(tokens), len(reference)))
