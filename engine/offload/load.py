"""A pair of models within a limit of memory: the drafter whole, the target as far as it fits, the rest streamed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.model.config import ModelConfig
from engine.model.loader import CPU, LoadOptions, load_transformer, rope_table
from engine.model.transformer import FusedLayer, Layer, Transformer
from engine.model.weights import Checkpoint, has_weights
from engine.offload.blob import BlobLayout
from engine.offload.demand import cpu_demand, release_unused, resident_bytes
from engine.offload.gpu_load import Progress, load_within_gpu, phase_of
from engine.offload.head import CutHead, StreamedHead, projection
from engine.offload.planner import Plan, choose_context, make_plan
from engine.offload.repack import EMBEDDING_TENSOR, obstacle, open_store
from engine.offload.store import Store, store_path
from engine.offload.stream import Ring, StreamedLayers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Both models, and where the target's layers went."""

    target: Transformer
    drafter: Transformer | None
    plan: Plan


def is_consumed(target: Path, device: torch.device) -> bool:
    """Whether the weight files of `target` have gone into its store for this kind of device."""
    return not has_weights(target) and store_path(target, "cpu" if device == CPU else "cuda").exists()


def load_within(
    memory: int,
    target: Path,
    drafter: Path | None,
    context: int | None,
    progress: Progress | None = None,
    device: torch.device = CPU,
    budget: int | None = None,
) -> Loaded:
    """Load a pair that is to stay within `memory` bytes: of this process, all of it counted, or of a GPU.

    The target's store is made first where there is none. `budget`: draft nodes per pass, if the user names a number.
    Raises TreelineError when the memory is too little (it says what is enough) or the target cannot be streamed.
    """
    if device != CPU:
        return Loaded(*load_within_gpu(memory, target, drafter, context, device, progress, budget))
    shape = ModelConfig.load(target)
    if reason := obstacle(shape):
        raise TreelineError(
            f"{target} and its caches need more than the {memory / 2**20:.0f} MiB that memory allows, and cannot be"
            f" streamed: {reason}; allow more, or choose a smaller model or context_length"
        )
    draft_shape = ModelConfig.load(drafter) if drafter else None
    most = shape.max_position_embeddings
    demand = cpu_demand(shape, draft_shape, resident_bytes(), budget=budget)
    tokens = context or choose_context(demand, memory, most)
    make_plan(demand, memory, tokens, most)  # too little memory should be known before anything is repacked
    with ExitStack() as unless_streamed:
        store = open_store(target, progress)
        unless_streamed.callback(store.close)
        draft = None
        if drafter:
            draft = load_transformer(drafter, LoadOptions(guesses=True, context=tokens), phase_of(progress, "drafter"))
            # mapped anew: the pages of the weights that were packed meanwhile are given back
            draft.embedding = Checkpoint.open(drafter).tensor(EMBEDDING_TENSOR, draft.embedding.shape)
        release_unused()
        demand = cpu_demand(shape, draft_shape, resident_bytes(), drafter_held=True, budget=budget)
        plan = make_plan(demand, memory, tokens, most)
        logger.info("%d of %d pieces resident, %d streamed", len(plan.resident), len(plan.pieces), len(plan.streamed))
        loaded = Loaded(load_planned(store, plan, progress), draft, plan)
        if plan.streamed:
            unless_streamed.pop_all()
    return loaded


def load_planned(store: Store, plan: Plan, progress: Progress | None = None) -> Transformer:
    """Load the target of `store` as `plan` says. Raises TreelineError for a damaged store."""
    config, layouts = store.layout.config, store.layout.layers
    norm, embedding = store.norm(), store.embedding()
    pieces = store.pass_pieces
    resident: dict[int, Tensor] = {}
    for number in plan.resident:
        if progress:
            progress("target", len(resident), len(plan.resident))
        resident[number] = store.load(pieces[number]).tensor

    def build(index: int, parts: Sequence[Tensor]) -> Layer:
        layout = layouts[index]
        assert isinstance(layout, BlobLayout)  # of a store made for a CPU
        return FusedLayer(layout.layer(parts))

    layers: Sequence[Layer]
    if plan.streamed:
        feed = Ring(store, [pieces[number] for number in plan.streamed], plan.slots)
        layers = StreamedLayers(store, resident, feed, build)
        head = StreamedHead(layers)
    else:
        whole = iter(resident[number] for number in range(len(pieces)))
        layers = [build(index, [next(whole) for _ in layout.sizes]) for index, layout in enumerate(layouts)]
        head = CutHead([projection(shape, next(whole)) for shape in store.layout.head_pieces])
    return Transformer(
        config=config,
        embedding=embedding,
        layers=layers,
        norm=norm,
        head=head,
        rope=rope_table(config, plan.context),
        dtype=torch.float32,
        streamed=bool(plan.streamed),
    )
