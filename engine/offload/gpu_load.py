"""A pair of models within a limit of a GPU's memory: what does not fit waits in the host's memory, and then on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.kernels.copies import Copies, copies_to
from engine.kernels.device import memory_explained, runs_triton
from engine.model.config import ModelConfig
from engine.model.loader import LoadOptions, load_transformer, rope_table
from engine.model.transformer import DeviceLayer, Layer, Transformer
from engine.offload.demand import available_memory, gpu_demand
from engine.offload.device_ring import DeviceRing
from engine.offload.gpu_blob import GpuBlobLayout
from engine.offload.planner import Plan, choose_context, make_plan
from engine.offload.repack import open_store
from engine.offload.store import HEAD, Store
from engine.offload.stream import LEAST_SLOTS, Ring, StreamedLayers

if TYPE_CHECKING:
    from engine.kernels.cuda import GpuHead

HOST_SPARE = 2 * 2**30  # of the host's free memory: left to the process itself and to others
Progress = Callable[[str, int, int], None]  # phase, done, in all

logger = logging.getLogger(__name__)


def load_within_gpu(
    memory: int,
    target: Path,
    drafter: Path | None,
    context: int | None,
    device: torch.device,
    progress: Progress | None = None,
    budget: int | None = None,
) -> tuple[Transformer, Transformer | None, Plan]:
    """Load a pair that is to stay within `memory` bytes of `device`; the host's memory holds what else it can.

    The target's store is made first where there is none. Raises TreelineError when the memory is too little (it says
    what is enough).
    """
    if device.type == "cuda" and not runs_triton(device):
        raise TreelineError(
            f"streaming to a GPU needs the package triton and a GPU of the Ampere generation or later: allow more than"
            f" {memory / 2**20:.0f} MiB of memory, or use --device cpu"
        )
    shape = ModelConfig.load(target)
    demand = gpu_demand(shape, ModelConfig.load(drafter) if drafter else None, budget)
    most = shape.max_position_embeddings
    tokens = context or choose_context(demand, memory, most)
    make_plan(demand, memory, tokens, most)  # too little memory should be known before anything is repacked
    store = open_store(target, progress, kind="cuda")
    draft = None
    if drafter:
        options = LoadOptions(device, guesses=True, context=tokens)
        draft = load_transformer(drafter, options, phase_of(progress, "drafter"))
    plan = make_plan(demand, memory, tokens, most, host_room(max(demand.pieces)))
    logger.info(
        "%.1f GB of weights on the GPU, %.1f in host memory, %.1f on disk",
        plan.resident_bytes / 1e9,
        plan.host_bytes / 1e9,
        plan.disk_bytes / 1e9,
    )
    with memory_explained(f"{target} was to take {memory / 2**30:.1f} GiB of it"):
        return load_on_device(store, plan, device, copies_to(device), progress), draft, plan


def host_room(largest: int) -> int:
    """Bytes of the host's memory for pieces, beside a ring that reads from disk; 0 where the system does not say."""
    return max(0, (available_memory() or 0) - HOST_SPARE - LEAST_SLOTS * largest)


def load_on_device(
    store: Store, plan: Plan, device: torch.device, copies: Copies, progress: Progress | None = None
) -> Transformer:
    """Load the target of `store`, made for a GPU, as `plan` says. Raises TreelineError for a damaged store."""
    config, layouts = store.layout.config, store.layout.layers
    rope, head, norm = rope_table(config, plan.context).to(device), _head(store, device), store.norm().to(device)
    resident: dict[int, Tensor] = {}
    kept: dict[int, Tensor] = {}
    for number, piece in enumerate(store.pass_pieces):
        if progress:
            progress("target", number, len(store.pass_pieces))
        if number in plan.resident:
            resident[number] = store.load(piece).tensor.to(device)
        elif number in plan.host:
            kept[number] = store.load(piece).tensor
            copies.pin(kept[number])

    def build(index: int, pieces: Sequence[Tensor]) -> Layer:
        layout = layouts[index]
        assert isinstance(layout, GpuBlobLayout)  # of a store made for a GPU
        return DeviceLayer(layout.layer(pieces, rope))

    layers: Sequence[Layer] = [build(index, [resident[index]]) for index in range(len(layouts)) if not plan.streamed]
    if plan.streamed:
        layers = StreamedLayers(store, resident, _feed(store, plan, kept, device, copies), build)
    return Transformer(
        config=config,
        embedding=store.embedding(),
        layers=layers,
        norm=norm,
        head=head,
        rope=rope,
        dtype=torch.float32,
        streamed=bool(plan.streamed),
    )


def _feed(store: Store, plan: Plan, kept: dict[int, Tensor], device: torch.device, copies: Copies) -> DeviceRing:
    pieces = [store.pass_pieces[number] for number in plan.streamed]
    size = max(piece.size for piece in pieces)
    slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(plan.slots)]
    from_disk = [store.pass_pieces[number] for number in plan.streamed if number not in kept]
    disk = Ring(store, from_disk, LEAST_SLOTS) if from_disk else None
    for slot in disk.slots if disk else ():
        copies.pin(slot)
    return DeviceRing(copies, [kept.get(number) for number in plan.streamed], slots, disk)


def _head(store: Store, device: torch.device) -> GpuHead:
    from engine.kernels.cuda import DenseLinear, GpuHead

    config = store.layout.config
    memory = store.load(store.parts[HEAD][0]).tensor.to(device)
    weight = memory[: config.vocab_size * config.hidden_size * store.layout.gpu_type.itemsize]
    return GpuHead(DenseLinear(weight.view(store.layout.gpu_type).view(config.vocab_size, config.hidden_size)))


def phase_of(progress: Progress | None, phase: str) -> Callable[[int, int], None] | None:
    """Return what tells `progress` how far `phase` is."""
    return (lambda done, total: progress(phase, done, total)) if progress else None
