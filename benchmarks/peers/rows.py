"""Who is measured, each in several settings of which its best counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

TREELINE, TRANSFORMERS, LLAMA = "Treeline", "transformers", "llama.cpp"  # the worker processes

SPECULATIVE = "Treeline speculative"
ONE_BY_ONE = "Treeline one by one"
GENERATE = "transformers generate"
ASSISTED = "transformers assisted"
LLAMA_USUAL = "llama.cpp Q4_0"


@dataclass(frozen=True, slots=True)
class Peer:
    """A row of the table: which worker runs it, and the settings to choose the fastest from."""

    name: str
    worker: str
    variants: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where the same weights lie in every form. `drafter` fields are None without one."""

    target: Path
    drafter: Path | None
    gguf_usual: Path | None = None
    gguf_pure: Path | None = None
    gguf_drafter: Path | None = None


def treeline_peers() -> list[Peer]:
    """Treeline with a budget chosen from measured costs, and without speculation."""
    return [
        Peer(SPECULATIVE, TREELINE, [{"speculation": True}]),
        Peer(ONE_BY_ONE, TREELINE, [{"speculation": False}]),
    ]


def transformers_peers(weights: Checkpoints) -> list[Peer]:
    """`generate`, assisted generation with the same drafter, and prompt lookup."""
    dtypes = ("float32", "bfloat16")
    plain = [{"model": str(weights.target), "dtype": dtype} for dtype in dtypes]
    lookup = [{**row, "lookup": count} for row in plain for count in (5, 10)]
    peers = [Peer(GENERATE, TRANSFORMERS, plain), Peer("transformers prompt lookup", TRANSFORMERS, lookup)]
    if weights.drafter:
        # 20 tokens, constant, threshold 0.4 is transformers' own default
        drafts = [(3, "constant", 0.0), (5, "constant", 0.0), (8, "constant", 0.0), (5, "heuristic_transient", 0.0)]
        drafts += [(5, "constant", 0.4), (10, "constant", 0.4), (20, "constant", 0.4)]
        names = ("assistant_tokens", "schedule", "confidence")
        assistant = {"assistant": str(weights.drafter)}
        variants = [{**row, **assistant, **dict(zip(names, how, strict=True))} for row, how in product(plain, drafts)]
        peers.append(Peer(ASSISTED, TRANSFORMERS, variants))
    return peers


def llama_peers(weights: Checkpoints) -> list[Peer]:
    """llama.cpp one by one in two quantisations, with the same drafter, and with prompt lookup."""
    if not weights.gguf_usual:
        return []
    usual: dict[str, Any] = {"model": str(weights.gguf_usual)}
    contexts = [
        {"flash_attention": flash, "n_batch": batch, "kv": "f16"} for flash in (False, True) for batch in (512, 2048)
    ]
    fast = contexts[::2]
    lookup = {"lookup": 2}
    peers = [
        Peer(LLAMA_USUAL, LLAMA, [{**usual, **context} for context in contexts]),
        Peer("llama.cpp Q4_0 prompt lookup", LLAMA,
             [{**usual, **fast[0], **lookup, "draft_tokens": count} for count in (5, 10)]),
    ]  # fmt: skip
    if weights.gguf_pure:
        pure = {"model": str(weights.gguf_pure)}
        peers.insert(1, Peer("llama.cpp Q4_0, embedding too", LLAMA, [{**pure, **context} for context in contexts]))
    if weights.gguf_drafter:
        draft = {"draft": str(weights.gguf_drafter)}
        variants = [{**usual, **how, **draft, "draft_tokens": count} for how in fast for count in (2, 3, 5, 8)]
        peers.append(Peer("llama.cpp Q4_0 with the drafter", LLAMA, variants))
    return peers
