"""From a checkpoint folder to a Transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.kernels import cpu
from engine.kernels.device import memory_explained, runs_triton
from engine.model.config import ModelConfig
from engine.model.linear import LinearLoader, Projection
from engine.model.transformer import DecoderLayer, DeviceLayer, FusedLayer, Layer, Transformer, rope_table
from engine.model.weights import Checkpoint

if TYPE_CHECKING:
    from engine.kernels.cuda import Recordings

CPU = torch.device("cpu")
Progress = Callable[[int, int], None]  # layers done, layers in all


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to hold a model.

    `dtype` None keeps what is fastest: int4 kernels for AWQ, the checkpoint's own type otherwise; a given type
    dequantises AWQ weights to it, and computes in plain torch. `guesses`: for a drafter, whose output need not be
    exact. On a CPU its dense layers are then held in 8 bits, and only the first `draft_outputs` tokens of the
    vocabulary are predicted. `context` bounds the positions (None: the model's own).
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
    narrow = gpu_type(config, quantised) if options.dtype is None and runs_triton(options.device) else None
    packed = options.dtype is None and options.device.type == "cpu" and quantised and not narrow
    dtype = torch.float32 if packed or narrow else options.dtype or config.dtype
    loader = LinearLoader(checkpoint, config, dtype, options.device, packed, narrow)
    positions = min(config.max_position_embeddings, options.context or config.max_position_embeddings)
    with memory_explained(f"{directory} needs {checkpoint.bytes() / 2**30:.1f} GiB"):
        rope = rope_table(config, positions).to(options.device)
        layers = _gpu_layers(loader, rope, progress) or _fused_layers(loader, progress)
        model = Transformer(
            config=config,
            embedding=loader.embedding(),
            layers=layers or _plain_layers(loader, progress),
            norm=loader.dense("model.norm.weight", [config.hidden_size]),
            head=loader.head(draft_outputs(config.vocab_size) if options.guesses and packed else config.vocab_size),
            rope=rope,
            dtype=dtype,
        )
        if narrow:
            model.recordings = _recordings(model)
    return model


def gpu_type(config: ModelConfig, inexact: bool) -> torch.dtype | None:
    """Return the type of activations in a GPU's kernels: the checkpoint's if it has 16 bits; None: not for them.

    A float32 checkpoint may be rounded to float16 where it is `inexact` as it is.
    """
    if config.dtype in (torch.float16, torch.bfloat16):
        return config.dtype
    return torch.float16 if inexact else None


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


def _gpu_layers(loader: LinearLoader, rope: Tensor, progress: Progress | None) -> list[Layer]:
    """Return every layer in a GPU's kernels; empty where they are not used."""
    layers: list[Layer] = []
    for index in range(loader.config.num_hidden_layers if loader.gpu_type else 0):
        layers.append(load_gpu_layer(loader, index, rope))
        if progress:
            progress(index + 1, loader.config.num_hidden_layers)
    return layers


def load_gpu_layer(loader: LinearLoader, index: int, rope: Tensor) -> DeviceLayer:
    """Load a decoder layer for a GPU's kernels. Raises TreelineError naming the file and tensor at fault."""
    return _gpu_layer(_layer(loader, index), rope)


def _gpu_layer(layer: DecoderLayer, rope: Tensor) -> DeviceLayer:
    from engine.kernels.cuda import DenseLinear, GpuLayer, GpuWeights, Int4Linear, join

    def joined(*parts: Projection) -> Int4Linear | DenseLinear:
        return join([part for part in parts if isinstance(part, Int4Linear | DenseLinear)])

    weights = GpuWeights(
        qkv=joined(layer.q_proj, layer.k_proj, layer.v_proj),
        output=joined(layer.o_proj),
        gate_up=joined(layer.gate_proj, layer.up_proj),
        down=joined(layer.down_proj),
        input_norm=layer.input_layernorm,
        post_attention_norm=layer.post_attention_layernorm,
    )
    return DeviceLayer(GpuLayer(layer_shape(layer.config), weights, rope))


def _recordings(model: Transformer) -> Recordings | None:
    """Return what records passes of `model`, whose layers and head are all a GPU's."""
    from engine.kernels.cuda import GpuHead, Recordings, Stack

    layers = [layer.layer for layer in model.layers if isinstance(layer, DeviceLayer)]
    if not isinstance(model.head, GpuHead):
        return None
    return Recordings(Stack(layers, model.norm, model.config.rms_norm_eps, model.head))


def layer_shape(config: ModelConfig) -> cpu.LayerShape:
    """Sizes of the decoder layers of a checkpoint."""
    return cpu.LayerShape(
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.intermediate_size,
        config.rms_norm_eps,
    )


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
    shape = layer_shape(layer.config)
    weights = cpu.LayerWeights(
        qkv=cpu.PackedLinear.concat([query, key, value]),
        output=output,
        gate_up=cpu.PackedLinear.concat([gate, up]),
        down=down,
        input_norm=layer.input_layernorm,
        post_attention_norm=layer.post_attention_layernorm,
    )
    return FusedLayer(cpu.NativeLayer(shape, weights)) if cpu.NativeLayer.fits(shape, weights) else None
