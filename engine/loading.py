"""Loading what an engine runs: a target and its drafter, whole or within a limit of memory, and their tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.chat_template import ChatTemplate
from engine.config import EngineConfig
from engine.errors import TreelineError
from engine.hub import Pair, resolve_pair
from engine.kernels import cpu
from engine.kernels.device import pick_device
from engine.model.loader import LoadOptions, footprint, load_transformer
from engine.model.transformer import Transformer
from engine.offload.demand import GPU_CONTEXT, resident_bytes
from engine.offload.gpu_load import phase_of
from engine.offload.load import is_consumed, load_within
from engine.prompt import PromptLayout, choose_layout
from engine.tokenizer import Tokenizer

LoadProgress = Callable[[str, int, int], None]  # phase, done, in all


@dataclass(frozen=True, slots=True)
class Models:
    """What was loaded. `template`: of conversations with the target."""

    target: Transformer
    drafter: Transformer | None
    tokenizer: Tokenizer
    layout: PromptLayout
    template: ChatTemplate


def load_models(config: EngineConfig, progress: LoadProgress | None = None) -> Models:
    """Load the models that `config` names.

    `progress(phase, done, total)` counts layers. Raises TreelineError saying what is missing or does not fit.
    """
    cpu.use_threads(config.threads)
    pair = resolve_pair(config)
    device = pick_device(config.device, prefer_gpu=config.model != "bundled")
    tokenizer = Tokenizer.load(pair.target)
    layout = choose_layout(tokenizer, config.layout)
    if pair.drafter:
        check_vocabularies(pair.drafter, tokenizer)
    template = ChatTemplate(pair.target)
    if config.memory is not None and device.type == "cpu":
        template.preload()  # what it takes counts too
    load = _load_whole if _fits(config, pair, device) else _load_within
    target, drafter = load(config, pair, device, progress)
    cpu.use_threads(config.threads, native_only=all(model.fused for model in (target, drafter) if model))
    return Models(target, drafter, tokenizer, layout, template)


def _load_whole(
    config: EngineConfig, pair: Pair, device: torch.device, progress: LoadProgress | None
) -> tuple[Transformer, Transformer | None]:
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    options = LoadOptions(device, dtype, context=config.context_length)
    target = load_transformer(pair.target, options, phase_of(progress, "target"))
    if not pair.drafter:
        return target, None
    return target, load_transformer(pair.drafter, replace(options, guesses=True), phase_of(progress, "drafter"))


def _fits(config: EngineConfig, pair: Pair, device: torch.device) -> bool:
    """Whether the pair can be held whole: its files and its caches for the longest context, beside what is held now.

    On a GPU the limit is one of its memory, of which nothing is held yet but what every process takes there. A target
    whose files went into its store is streamed in any case. Raises TreelineError if there is no limit to do so in.
    """
    consumed = is_consumed(pair.target, device)
    if config.memory is None:
        if consumed:
            raise TreelineError(
                f"the weight files of {pair.target} have gone into its store, from which it is streamed within a limit:"
                " set one, such as --memory 8GiB"
            )
        return True
    if consumed:
        return False
    directories = [directory for directory in (pair.target, pair.drafter) if directory]
    needed = sum(footprint(directory, config.context_length) for directory in directories)
    held = resident_bytes() if device.type == "cpu" else GPU_CONTEXT
    return held + needed <= config.memory


def _load_within(
    config: EngineConfig, pair: Pair, device: torch.device, progress: LoadProgress | None
) -> tuple[Transformer, Transformer | None]:
    memory = config.memory or 0
    if config.dtype != "auto":
        raise TreelineError(
            f"the models and their caches need more than the {memory / 2**20:.0f} MiB that memory allows, and weights"
            " are streamed with dtype auto only: allow more, or choose a smaller model or context_length"
        )
    loaded = load_within(memory, pair.target, pair.drafter, config.context_length, progress, device, config.budget)
    return loaded.target, loaded.drafter


def check_vocabularies(directory: Path, target: Tokenizer) -> None:
    """Raise TreelineError unless the drafter of `directory` has the target's tokens: its ids would mean other text."""
    drafter = Tokenizer.load(directory)
    if drafter.table.tokens != target.table.tokens:
        raise TreelineError(
            f"the drafter {directory} has a vocabulary of {drafter.vocab_size} tokens that is not the target's of"
            f" {target.vocab_size}: a drafter must share the target's tokenizer; choose another, or --drafter none"
        )
