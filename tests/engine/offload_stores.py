"""A small AWQ target, its store, and passes over it with layers in different places."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from awq_checkpoints import write_packed
from checkpoints import chain, llama, qwen2
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.model.loader import LoadOptions, load_transformer
from engine.model.transformer import Transformer
from engine.offload import direct, store, stream, writer
from engine.offload.load import load_planned
from engine.offload.planner import Plan
from engine.offload.repack import open_store

LAYERS = 5
HEAD_PIECES = 3
PIECES = 2 * LAYERS + HEAD_PIECES  # of a pass
SMALL_BLOCK = 16384
TOKENS = [3, 141, 59, 26, 53, 58]
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 128,
    "vocab_size": 800,
}


def use_small_blocks(patch: pytest.MonkeyPatch) -> None:
    """Let these small models have parts of several blocks, as large ones do."""
    for module in (direct, store, stream, writer):
        patch.setattr(module, "BLOCK", SMALL_BLOCK)


def write_target(directory: Path, family: str = "llama", dense: Sequence[int] = (), shards: int = 1) -> Path:
    """An AWQ checkpoint of LAYERS layers, of which those in `dense` are not quantised."""
    skipped = [f"layers.{index}." for index in dense]
    section = {"modules_to_not_convert": skipped} if skipped else {}
    config = {"llama": llama, "qwen2": qwen2}[family](**SIZES)
    write_packed(directory, config, 32, section, lambda name: not any(part in name for part in skipped))
    if shards > 1:
        _split(directory, shards)
    return directory


def _split(directory: Path, shards: int) -> None:
    """Share the tensors out in the order of their names, as large checkpoints have them."""
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    weight_map = {name: f"model-{place * shards // len(names)}.safetensors" for place, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == shard}, directory / shard)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "model.safetensors").unlink()


def logits(model: Transformer, cancelled_before: int | None = None) -> Tensor:
    """Of a pass over a prompt and a small tree behind it; `cancelled_before`: which layer is not computed any more."""
    parents = [*chain(len(TOKENS)), len(TOKENS) - 1, len(TOKENS) - 1, len(TOKENS)]
    layer = iter(range(LAYERS))
    return model.forward(
        [*TOKENS, 7, 8, 9], parents, model.new_cache(64), slice(None), lambda: next(layer) == cancelled_before
    )


def in_memory(directory: Path) -> Transformer:
    return load_transformer(directory, LoadOptions())


@contextmanager
def offloaded(directory: Path, resident: Sequence[int] = (), slots: int = 3) -> Iterator[Transformer]:
    """The target with the pieces `resident` in memory and the others streamed."""
    opened = open_store(directory)
    model = load_planned(opened, Plan(0, 128, slots, tuple(resident), (), opened.layout.pass_sizes, (), 0))
    try:
        yield model
    finally:
        if isinstance(model.layers, stream.StreamedLayers):
            model.layers.close()


def same(model: Transformer, expected: Tensor) -> bool:
    """Whether a pass gives `expected`, bit for bit."""
    return torch.equal(logits(model), expected)
