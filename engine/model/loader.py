"""From a checkpoint folder to a Transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.kernels import cpu
from engine.model.config import ModelConfig
from engine.model.linear import LinearLoader
from engine.model.transformer import DecoderLayer, FusedLayer, Layer, Transformer, rope_table
from engine.model.weights import Checkpoint

CPU = torch.device("cpu")
Progress = Callable[[int, int], None]  # layers done, layers in all


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to hold a model.

    `dtype` None keeps what is fastest: int4 kernels for AWQ on a CPU, the checkpoint's own type otherwise; a given type
    dequantises AWQ weights to it. `guesses`: for a drafter, whose output need not be exact. On a CPU its dense layers
    are then held in 8 bits, and only the first `draft_outputs` tokens of the vocabulary are predicted. `context` bounds
    the positions (None: the model's own).
    """

    device: torch.device = CPU
    dtype: torch.dtype | None = None
    guesses: bool = False
    context: int | None = None


def draft_outputs(vocab_size: int) -> int:
    """Return how many tokens a drafter predicts: the first ones of the vocabulary.

    Byte-pair merging makes frequent tokens first. The output projection is most of a small drafter's work, and rare
    tokens are seldom guessed right (FR-Spec, arXiv 2502.14856).
    """
    return min(vocab_size, max(4096, vocab_size // 4))


def load_transformer(directory: Path, options: LoadOptions, progress: Progress | None = None) -> Transformer:
    """Load the decoder of `directory`. Raises TreelineError naming the file and tensor at fault."""
    config = ModelConfig.load(directory)
    checkpoint = Checkpoint.open(directory)
    quantised = config.awq is not None or options.guesses
    packed = options.dtype is None and options.device.type == "cpu" and quantised
    dtype = torch.float32 if packed else options.dtype or config.dtype
    loader = LinearLoader(checkpoint, config, dtype, options.device, packed)
    positions = min(config.max_position_embeddings, options.context or config.max_position_embeddings)
    return Transformer(
        config=config,
        embedding=loader.embedding(),
        layers=_fused_layers(loader, progress) or _plain_layers(loader, progress),
        norm=loader.dense("model.norm.weight", [config.hidden_size]),
        head=loader.head(draft_outputs(config.vocab_size) if options.guesses and packed else config.vocab_size),
        rope=rope_table(config, positions).to(options.device),
        dtype=dtype,
    )


def footprint(directory: Path, context: int | None = None) -> int:
    """Return the bytes that a model takes at most: its files, and a float32 KV cache of `context` tokens."""
    config = ModelConfig.load(directory)
    positions = min(config.max_position_embeddings, context or config.max_position_embeddings)
    cache = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * positions
    return Checkpoint.open(directory).bytes() + cache


def _plain_layers(loader: LinearLoader, progress: Progress | None) -> list[Layer]:
    layers: list[Layer] = []
    for index in range(loader.config.num_hidden_layers):
        layers.append(_layer(loader, index))
        if progress:
            progress(index + 1, loader.config.num_hidden_layers)
    return layers


def _fused_layers(loader: LinearLoader, progress: Progress | None) -> list[Layer] | None:
    """Return every layer as one native call, or None where that is not possible for all of them.

    All or none: the two kinds keep their keys and values differently.
    """
    layers: list[Layer] = []
    for index in range(loader.config.num_hidden_layers if loader.packed and cpu.available() else 0):
        fused = load_fused_layer(loader, index)
        if fused is None:
            return None
        layers.append(fused)
        if progress:
            progress(index + 1, loader.config.num_hidden_layers)
    return layers or None


def load_fused_layer(loader: LinearLoader, index: int) -> FusedLayer | None:
    """Load a decoder layer as one native call, or return None where its weights are not packed alike.

    Raises TreelineError naming the file and tensor at fault.
    """
    return _fused(_layer(loader, index))


def _layer(loader: LinearLoader, index: int) -> DecoderLayer:
    config, name = loader.config, f"model.layers.{index}"
    hidden, middle = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    attention, mlp = f"{name}.self_attn", f"{name}.mlp"
    return DecoderLayer(
        config=config,
        input_layernorm=loader.dense(f"{name}.input_layernorm.weight", [hidden]),
        q_proj=loader.load(f"{attention}.q_proj", queries, hidden, config.qkv_bias),
        k_proj=loader.load(f"{attention}.k_proj", keys, hidden, config.qkv_bias),
        v_proj=loader.load(f"{attention}.v_proj", keys, hidden, config.qkv_bias),
        o_proj=loader.load(f"{attention}.o_proj", hidden, queries, config.output_bias),
        post_attention_layernorm=loader.dense(f"{name}.post_attention_layernorm.weight", [hidden]),
        gate_proj=loader.load(f"{mlp}.gate_proj", middle, hidden, config.mlp_bias),
        up_proj=loader.load(f"{mlp}.up_proj", middle, hidden, config.mlp_bias),
        down_proj=loader.load(f"{mlp}.down_proj", hidden, middle, config.mlp_bias),
    )


def _fused(layer: DecoderLayer) -> FusedLayer | None:
    """Return the layer as one native call, where its weights are packed alike."""
    projections = (
        layer.q_proj,
        layer.k_proj,
        layer.v_proj,
        layer.o_proj,
        layer.gate_proj,
        layer.up_proj,
        layer.down_proj,
    )
    packed = [projection for projection in projections if isinstance(projection, cpu.PackedLinear)]
    if len(packed) < len(projections):
        return None
    query, key, value, output, gate, up, down = packed
    if len({(part.bits, part.group_size) for part in (query, key, value)}) > 1 or gate.bits != up.bits:
        return None
    config = layer.config
    shape = cpu.LayerShape(
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.intermediate_size,
        config.rms_norm_eps,
    )
    weights = cpu.LayerWeights(
        qkv=cpu.PackedLinear.concat([query, key, value]),
        output=output,
        gate_up=cpu.PackedLinear.concat([gate, up]),
        down=down,
        input_norm=layer.input_layernorm,
        post_attention_norm=layer.post_attention_layernorm,
    )
    return FusedLayer(cpu.NativeLayer(shape, weights)) if cpu.NativeLayer.fits(shape, weights) else None
