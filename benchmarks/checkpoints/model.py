"""All tensors of a large model that says what a small one says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.checkpoints.layers import LOW_GAIN, ROWS, Matrix, Size, embedded, exact_half, idle
from benchmarks.checkpoints.placement import Copy, Placement, place
from benchmarks.checkpoints.shapes import Shape
from benchmarks.checkpoints.writer import Planned
from engine.model.config import ModelConfig
from engine.model.weights import Checkpoint

CONSTANT = 2.0**-12  # its square hardly counts in any sum of squares
# An unused token's logit is -2 CONSTANT UNUSED_NORM UNUSED_OUTPUT over the magnitude of a row.
UNUSED_NORM = 2.0**12
UNUSED_OUTPUT = 2.0**12


@dataclass(frozen=True, slots=True)
class Large:
    """The small checkpoint, the shape to give it, and how."""

    config: ModelConfig
    checkpoint: Checkpoint
    shape: Shape
    placement: Placement

    @classmethod
    def open(cls, source: Path, shape: Shape) -> Large:
        """Open folder `source`. Raises TreelineError when it is no checkpoint, or cannot take this shape exactly."""
        config = ModelConfig.load(source)
        return cls(config, Checkpoint.open(source), shape, place(config, shape))

    def tensors(self) -> list[Planned]:
        """Every tensor, in the order of the layers."""
        shape, place = self.shape, self.placement
        vocabulary = (shape.vocab_size, shape.hidden_size)
        planned = [Planned("model.embed_tokens.weight", "F16", vocabulary, self._embedding)]
        for index in range(shape.num_hidden_layers):
            planned += self._layer(index)
        norm = self._norm("model.norm.weight")
        norm[place.constants] = torch.tensor([UNUSED_NORM, -UNUSED_NORM], dtype=torch.float16)
        planned.append(self._vector("model.norm.weight", norm))
        if not shape.tied:
            planned.append(Planned("lm_head.weight", "F16", vocabulary, self._head))
        return planned

    def _layer(self, index: int) -> Iterator[Planned]:
        shape, place = self.shape, self.placement
        name = f"model.layers.{index}"
        source = place.layers.index(index) if index in place.layers else None
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensor = torch.ones(shape.hidden_size, dtype=torch.float16)
            if source is not None:
                tensor = self._norm(f"model.layers.{source}.{norm}.weight", norm == "input_layernorm")
            yield self._vector(f"{name}.{norm}.weight", tensor)
        yield from self._projections(index, source)
        if shape.model_type == "qwen2":
            for part, heads in (("q", shape.num_attention_heads), ("k", shape.num_key_value_heads)):
                zeros = torch.zeros(heads * shape.head_dim, dtype=torch.float16)
                for letter in part if part == "q" else "kv":
                    yield self._vector(f"{name}.self_attn.{letter}_proj.bias", zeros)

    def _projections(self, index: int, source: int | None) -> Iterator[Planned]:
        small, large, place = self.config, self.shape, self.placement
        queries = [Copy(columns, 1) for columns in place.queries]
        keys, middle = (Copy(columns, 1) for columns in (place.keys, place.intermediate))
        reads = [copy.columns for copy in place.copies[: place.reads]]
        query_width, key_width = (
            heads * large.head_dim for heads in (large.num_attention_heads, large.num_key_value_heads)
        )
        hidden, width = large.hidden_size, large.intermediate_size
        rows = (
            ("self_attn.q_proj", reads, queries, hidden, query_width),
            ("self_attn.k_proj", reads[:1], [keys], hidden, key_width),
            ("self_attn.v_proj", reads[:1], [keys], hidden, key_width),
            ("self_attn.o_proj", place.queries[:1], place.copies, query_width, hidden),
            ("mlp.gate_proj", reads[:1], [middle], hidden, width),
            ("mlp.up_proj", reads[:1], [middle], hidden, width),
            ("mlp.down_proj", [place.intermediate], place.copies, width, hidden),
        )
        for number, (kind, inputs, outputs, large_inputs, large_outputs) in enumerate(rows):
            size = Size(f"model.layers.{index}.{kind}", large_inputs, large_outputs)
            if source is None:
                writes = kind in ("self_attn.o_proj", "mlp.down_proj")
                yield from idle(size, small.awq is not None, None if writes else (index, number))
                continue
            matrix = Matrix.read(
                self.checkpoint,
                f"model.layers.{source}.{kind}",
                len(inputs[0]),
                len(outputs[0].columns),
                small.awq.group_size if small.awq else None,
            )
            parts = matrix.times(place.query_gain) if kind == "self_attn.q_proj" else [matrix]
            yield from embedded(size, list(zip(parts, inputs, strict=False)), outputs)

    def _norm(self, name: str, low: bool = False) -> Tensor:
        """Norm weights that read the first copy and, with `low` and if it is read at all, the second one's rests."""
        place = self.placement
        weight = self.checkpoint.tensor(name, [self.config.hidden_size]).float() * place.norm_gain
        norm = torch.zeros(self.shape.hidden_size, dtype=torch.float16)
        norm[place.copies[0].columns] = exact_half(weight, name)
        if low and place.reads > 1:
            norm[place.copies[1].columns] = (weight / LOW_GAIN).half()
        return norm

    @staticmethod
    def _vector(name: str, tensor: Tensor) -> Planned:
        return Planned(name, "F16", tuple(tensor.shape), partial(iter, (tensor,)))

    def _embedding(self) -> Iterator[Tensor]:
        """All copies of a token's row, and the constants."""
        place = self.placement
        for block, rows in self._vocabulary("model.embed_tokens.weight"):
            for copy in place.copies:
                block[: len(rows), copy.columns] = rows * copy.gain
            block[: len(rows), place.constants] = CONSTANT
            if self.shape.tied:
                self._never(block[len(rows) :])
            yield block

    def _head(self) -> Iterator[Tensor]:
        """Output rows, which read the first copy."""
        tied = self.config.tie_word_embeddings
        for block, rows in self._vocabulary("model.embed_tokens.weight" if tied else "lm_head.weight"):
            block[: len(rows), self.placement.copies[0].columns] = rows
            self._never(block[len(rows) :])
            yield block

    def _never(self, rows: Tensor) -> None:
        """Give output rows a logit that is never chosen: of the constants, which the final norm made +c and -c."""
        rows[:, self.placement.constants] = torch.tensor([-UNUSED_OUTPUT, UNUSED_OUTPUT], dtype=torch.float16)

    def _vocabulary(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Empty rows of the large matrix, some at a time, with the small one's rows that belong at their beginning."""
        small = self.config
        table = exact_half(self.checkpoint.tensor(name, [small.vocab_size, small.hidden_size]), name)
        for start in range(0, self.shape.vocab_size, ROWS):
            count = min(ROWS, self.shape.vocab_size - start)
            yield torch.zeros(count, self.shape.hidden_size, dtype=torch.float16), table[start : start + count]
