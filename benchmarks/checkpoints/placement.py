"""Where every dimension of a small model lies in a large one, so that the large one computes the same.

With H and h the hidden sizes, D and d the head sizes, of the large and the small model:

- The residual stream lies in the large one several times, in copies with gains g. Those that are not read only
  make the sum of squares sum(g^2) times the small one's. sum(g^2) = H / h / 4^k, so the mean square is the small one's
  over 4^k, and norm weights divided by 2^k, exact in any binary format, give the same rows.
- RoPE turns dimension j of d with the frequency that dimension j D / d of D has, in each half of the head.
- Attention divides by sqrt(D): queries are multiplied by sqrt(D / d). Unless that is a power of two, the product is
  rounded, so its first half-precision part reads one copy and the rest of it another.
- Tokens that only the large vocabulary has get a logit far below all others. Two columns hold a constant, too small to
  matter to the mean square; the last norm enlarges it with opposite signs, and the output rows of these tokens subtract
  both. In a tied embedding, all of whose rows contain the constant, the two cancel for the other tokens.
- Groups of inputs that share a scale stay together, each alone in a group of the large model. Where a group spans
  several heads, the others repeat the first one's queries: heads without queries would mix the values evenly, and
  kernels that round a group of activations together would round the first one's otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from benchmarks.checkpoints.shapes import Shape
from engine.errors import TreelineError
from engine.model.config import ModelConfig

GROUP = 128  # inputs that share a scale, in published AWQ checkpoints


@dataclass(frozen=True, slots=True)
class Copy:
    """The columns [h] of one copy of the residual stream, and the power of two that it is multiplied by."""

    columns: Tensor
    gain: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Columns of the large model by those of the small one, int64.

    `reads`: how many of the `copies`, the first ones, projections read; their gain is 1. `norm_gain` 2^-k.
    `queries`: several times [heads * d], the first of which is read; `keys` [kv heads * d], values too;
    `intermediate`. `layers`: which layers are not idle.
    `query_gain`: sqrt(D / d). `constants`: the two columns that hold a constant.
    """

    copies: tuple[Copy, ...]
    reads: int
    norm_gain: float
    constants: Tensor
    eps: float
    queries: tuple[Tensor, ...]
    keys: Tensor
    intermediate: Tensor
    layers: tuple[int, ...]
    query_gain: float


def place(source: ModelConfig, shape: Shape) -> Placement:
    """Find a placement. Raises TreelineError where the small model does not fit exactly."""
    _check_sizes(source, shape)
    query_gain = math.sqrt(shape.head_dim / source.head_dim)
    reads = 1 if math.frexp(query_gain)[0] == 0.5 else 2  # one where the gain is a power of two
    gains, norm_gain = _gains(shape.hidden_size // source.hidden_size, reads)
    group = _group(source)
    copies, constants = _columns(source.hidden_size, shape.hidden_size, gains, reads, group)
    queries, keys = _heads(source, shape)
    count = source.num_hidden_layers
    return Placement(
        copies=copies,
        reads=reads,
        norm_gain=norm_gain,
        constants=constants,
        eps=source.rms_norm_eps * norm_gain**2,
        queries=queries,
        keys=keys,
        intermediate=_isolated(source.intermediate_size, group),
        layers=tuple(i * shape.num_hidden_layers // count for i in range(count)),
        query_gain=query_gain,
    )


def trimmed(shape: Shape, source: ModelConfig) -> Shape:
    """`shape` without all that adds nothing: what the CPU kernels compute for it is the same, bit for bit."""
    queries = source.num_attention_heads // source.num_key_value_heads * _head_step(source, shape)
    return replace(
        shape,
        intermediate_size=int(_isolated(source.intermediate_size, _group(source))[-1]) // GROUP * GROUP + GROUP,
        num_hidden_layers=source.num_hidden_layers,
        num_attention_heads=queries * source.num_key_value_heads,
        num_key_value_heads=source.num_key_value_heads,
        vocab_size=source.vocab_size,
    )


def _group(source: ModelConfig) -> int:
    return source.awq.group_size if source.awq else GROUP


def _check_sizes(source: ModelConfig, shape: Shape) -> None:
    """Raise TreelineError for a model that cannot be embedded in `shape` exactly."""
    spread = GROUP // _group(source)
    sizes = (
        ("hidden_size", source.hidden_size * spread * 2, shape.hidden_size),
        ("intermediate_size", source.intermediate_size * spread, shape.intermediate_size),
        ("num_hidden_layers", source.num_hidden_layers, shape.num_hidden_layers),
        ("num_key_value_heads", source.num_key_value_heads, shape.num_key_value_heads),
        ("vocab_size", source.vocab_size, shape.vocab_size),
    )
    for key, needed, there in sizes:
        if needed > there:
            raise TreelineError(f"{key} is {there}, the source needs {needed}: choose a larger shape")
    for key in ("hidden_size", "head_dim"):
        if getattr(shape, key) % getattr(source, key):
            raise TreelineError(
                f"{key} is {getattr(shape, key)}, no multiple of the source's {getattr(source, key)}: no exact copy"
            )
    if source.model_type != "llama" or source.qkv_bias or source.output_bias or source.mlp_bias:
        raise TreelineError("the source must be a Llama without biases, as the bundled pair is")
    if shape.tied and not source.tie_word_embeddings:
        raise TreelineError("the shape's output projection is its embedding, the source has one of its own")
    ratio = shape.head_dim // source.head_dim
    frequencies = source.rope.inverse_frequencies(shape.head_dim)[::ratio]
    if not torch.equal(frequencies, source.rope.inverse_frequencies(source.head_dim)):
        raise TreelineError("the source's RoPE does not turn heads of the larger size alike: no exact copy")


def _gains(ratio: int, reads: int) -> tuple[list[int], float]:
    """Powers of two whose squares sum to ratio / 4^k, the first `reads` of them 1; and 2^-k, k as large as possible."""
    norm_gain = 1.0
    while ratio % 4 == 0 and ratio // 4 >= reads:
        ratio, norm_gain = ratio // 4, norm_gain / 2
    gains, rest = [1] * reads, ratio - reads
    while rest > 0:
        gains.append(1 << int(math.log2(rest)) // 2)
        rest -= gains[-1] ** 2
    if rest < 0:
        raise TreelineError("the shape's hidden_size must be at least twice the source's")
    return gains, norm_gain


def _columns(small: int, large: int, gains: list[int], reads: int, group: int) -> tuple[tuple[Copy, ...], Tensor]:
    """Place the copies and the two constants: groups apart from each other where they are read."""
    read = _isolated(small, group)
    width = -(-int(read[-1] + 1) // GROUP) * GROUP
    columns = [read + width * index for index in range(reads)]
    constants = torch.tensor([width * reads, width * reads + 1])
    alone = range(width * reads, width * reads + GROUP)  # formats that round a group together keep the constants
    taken = {int(column) for placed in columns for column in placed} | set(alone)
    free = iter(column for column in range(large) if column not in taken)
    columns += [torch.tensor(list(islice(free, small))) for _ in gains[reads:]]
    if int(constants[-1]) >= large or any(len(placed) < small for placed in columns):
        raise TreelineError(f"hidden_size is {large}: too small for {len(gains)} copies of {small} columns")
    return tuple(Copy(placed, gain) for placed, gain in zip(columns, gains, strict=True)), constants


def _isolated(size: int, group: int) -> Tensor:
    """Columns of `size` inputs in groups of `group`, each at the start of a group of the large model."""
    index = torch.arange(size)
    return index // group * GROUP + index % group


def _heads(source: ModelConfig, shape: Shape) -> tuple[tuple[Tensor, ...], Tensor]:
    """Columns of queries and of keys. A query head goes to the key/value head that it went to before."""
    half = torch.arange(source.head_dim // 2) * (shape.head_dim // source.head_dim)
    within = torch.cat((half, half + shape.head_dim // 2))
    per_kv, large_per_kv = (model.num_attention_heads // model.num_key_value_heads for model in (source, shape))
    step = _head_step(source, shape)
    numbers: list[int] = []
    for kv_head in range(source.num_key_value_heads):
        first = -(-kv_head * large_per_kv // step) * step
        numbers += range(first, first + per_kv * step, step)
        if first + per_kv * step > (kv_head + 1) * large_per_kv:
            raise TreelineError(f"{large_per_kv} query heads for each key/value head: the source's {per_kv} do not fit")
    queries = torch.cat([number * shape.head_dim + within for number in numbers])
    keys = torch.cat([number * shape.head_dim + within for number in range(source.num_key_value_heads)])
    return tuple(queries + i * shape.head_dim for i in range(step)), keys


def _head_step(source: ModelConfig, shape: Shape) -> int:
    """How many heads of the large model a group of inputs spans: one of them is read."""
    return max(1, GROUP // shape.head_dim) if source.awq else 1
