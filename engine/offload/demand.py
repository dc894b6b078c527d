"""What a pair of models asks of memory."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.kernels import cpu
from engine.kernels.gpu.layout import SAMPLE_BYTES
from engine.kernels.packed import dense_shape
from engine.kernels.weights import block_bytes
from engine.model.config import ModelConfig
from engine.model.loader import draft_outputs
from engine.offload.blob import SECTOR, BlobLayout
from engine.offload.store import StoreLayout

MIB = 2**20
PREFILL_ROWS = 512  # of a pass that reads the prompt
MOST_NODES = 64  # of a tree, where the user names no budget
_BESIDE_NODES = 8  # other rows of a pass that checks a tree
PROCESS = 260 * MIB  # an interpreter with torch and a small tokenizer, measured on Linux with torch 2.13
PER_TOKEN_OF_VOCABULARY = 1200  # bytes of the tokenizer and of the table of its tokens
GPU_CONTEXT = 600 * MIB  # libraries, kernels and workspaces on a GPU


@dataclass(frozen=True, slots=True)
class Demand:
    """Bytes. `pieces`: of the weights, in the order of a pass. `fixed`: by name, whatever the plan.

    `per_token`: of the KV caches, for the context and `extra_tokens` of a tree.
    """

    pieces: tuple[int, ...]
    fixed: tuple[tuple[str, int], ...]
    per_token: int
    extra_tokens: int = MOST_NODES + _BESIDE_NODES


def counted_nodes(budget: int | None) -> int:
    """How many nodes of a tree are counted: what the user's `budget` allows, or what is usual if that is less."""
    return max(MOST_NODES, budget or 0)


def cpu_demand(
    config: ModelConfig,
    drafter: ModelConfig | None,
    process: int | None = None,
    drafter_held: bool = False,
    budget: int | None = None,
) -> Demand:
    """Of a target of shape `config` computed by the CPU's integer kernels.

    `process`: bytes that the process holds before the target is loaded, the tokenizer included, and the drafter if
    `drafter_held`; None to estimate them. `budget`: see `counted_nodes`.
    """
    rows = counted_nodes(budget) + _BESIDE_NODES
    layout = StoreLayout(config, "float16")
    embedding = layout.embedding_bytes
    fixed = (
        ("process", process or PROCESS + PER_TOKEN_OF_VOCABULARY * config.vocab_size),
        ("drafter", _packed_bytes(drafter) if drafter and not drafter_held else 0),
        ("embedding rows in use", min(embedding, PREFILL_ROWS * (embedding // config.vocab_size + SECTOR))),
        ("activations", _activations(config, rows)),
    )
    caches = (config, drafter) if drafter else (config,)
    per_token = sum(_slot_bytes(each) + 4 * each.head_dim for each in caches)
    return Demand(layout.pass_sizes, fixed, per_token, rows)


def gpu_demand(config: ModelConfig, drafter: ModelConfig | None, budget: int | None = None) -> Demand:
    """Of a target of shape `config` on a GPU: int4 layers, all else float16; the embedding stays with the host."""
    rows = counted_nodes(budget) + _BESIDE_NODES
    fixed = [
        ("CUDA", GPU_CONTEXT),
        ("output projection", 2 * config.vocab_size * config.hidden_size),
        ("activations", max(_activations(config, rows), SAMPLE_BYTES)),  # tiles are timed in passes of few rows
    ]
    if drafter:
        fixed.append(("drafter", 2 * parameters(drafter) + _activations(drafter, rows)))
    per_token = _slot_bytes(config) + (_slot_bytes(drafter) if drafter else 0)
    return Demand(StoreLayout(config, "float16", "cuda").pass_sizes, tuple(fixed), per_token, rows)


def parameters(config: ModelConfig) -> int:
    """How many numbers a model has."""
    embedding = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    return embedding + config.num_hidden_layers * layer_parameters(config)


def layer_parameters(config: ModelConfig) -> int:
    """Of the projections of one layer."""
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    return config.hidden_size * (heads * config.head_dim + 3 * config.intermediate_size)


def _packed_bytes(drafter: ModelConfig) -> int:
    """What a drafter's weights take when they are packed, and a quarter more that packing leaves in pieces.

    Its embedding stays in the file.
    """
    layers = sum(BlobLayout.of(drafter, index).size for index in range(drafter.num_hidden_layers))
    head = block_bytes(dense_shape(draft_outputs(drafter.vocab_size), drafter.hidden_size))
    return (layers + head) * 5 // 4 + 8 * MIB


def _activations(config: ModelConfig, rows: int) -> int:
    """Of passes of up to PREFILL_ROWS rows, with the logits of `rows` of them."""
    hidden, context = config.hidden_size, config.num_attention_heads * config.head_dim
    qkv = context + 2 * config.num_key_value_heads * config.head_dim
    row = 10 * hidden + 4 * qkv + 4 * context + (hidden + context + config.intermediate_size) * 9 // 8
    return PREFILL_ROWS * row + rows * 4 * config.vocab_size


def _slot_bytes(config: ModelConfig) -> int:
    """Of the KV cache, per position: all layers, in 16 bits."""
    return config.num_hidden_layers * cpu.NativeCache.slot_bytes(config.num_key_value_heads, config.head_dim)


def resident_bytes() -> int:
    """Memory of this process that is in use now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096


def available_memory() -> int | None:
    """Memory of this machine that processes may still take; None where the system does not say."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def release_unused() -> None:
    """Give memory back to the system that the C library keeps for later; what packing weights leaves is a lot."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without it
            ctypes.CDLL(None).malloc_trim(0)
