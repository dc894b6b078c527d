"""What a Hugging Face `config.json` says about a decoder. A model family is a row of `FAMILIES`."""

from __future__ import annotations

import json
import math
import reprlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from engine.errors import TreelineError


@dataclass(frozen=True, slots=True)
class Family:
    """How a family differs from Llama.

    `qkv_bias`: always there; else `attention_bias` of the configuration decides. `sliding_window`: in force wherever
    the configuration states one; else only where it also says `use_sliding_window`.
    """

    qkv_bias: bool = False
    sliding_window: bool = False


FAMILIES = {
    "llama": Family(),
    "mistral": Family(sliding_window=True),
    "qwen2": Family(qkv_bias=True),
}
ROPE_TYPES = ("default", "linear", "llama3")
AWQ_GROUP_SIZES = (32, 64, 128)
MAX_SIZE = 2**31 - 1
MAX_POSITIONS = 2**22  # the longest published; a table of rotations is made for every position


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding; the last four are read for `llama3` (and `factor` for `linear`)."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192

    def inverse_frequencies(self, head_dim: int) -> Tensor:
        """Angles per position, float32 [head_dim / 2]. Source for llama3: Llama 3.1's published scaling rule."""
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
        inverse = 1.0 / (self.theta**exponents)
        if self.kind == "linear":
            return inverse / self.factor
        if self.kind == "default":
            return inverse
        wavelength = 2 * math.pi / inverse
        low, high = self.low_freq_factor, self.high_freq_factor
        smooth = ((self.original_max_position / wavelength - low) / (high - low)).clamp(0, 1)
        return (1 - smooth) * inverse / self.factor + smooth * inverse


@dataclass(frozen=True, slots=True)
class Awq:
    """AWQ "gemm" quantisation: 4 bits, `group_size` inputs share a scale and (with `zero_point`) a zero point."""

    group_size: int
    zero_point: bool
    modules_to_not_convert: tuple[str, ...]

    def covers(self, module: str) -> bool:
        """Tell whether the linear layer named `module` is quantised."""
        return not any(part in module for part in self.modules_to_not_convert)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder, in Hugging Face's terms."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    rope: Rope
    dtype: torch.dtype
    awq: Awq | None

    @classmethod
    def load(cls, directory: Path) -> ModelConfig:
        """Read `directory`/config.json.

        Raises TreelineError naming the file and the key when it is absent, malformed or asks for something unsupported.
        """
        path = directory / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise TreelineError(f"{path} does not exist: a checkpoint is a folder in Hugging Face layout") from None
        except (OSError, ValueError, RecursionError) as error:
            raise TreelineError(f"{path} cannot be read as JSON: {error}") from None
        if not isinstance(raw, dict):
            raise TreelineError(f"{path} must hold a JSON object")
        return _parse(_Fields(path, cast(dict[str, Any], raw)))


class _Fields:
    """A JSON object whose members are read with their type checked and their name in every error.

    `prefix`: what comes before a member's name, for an object inside an object. A null counts as absent.
    """

    def __init__(self, path: Path, raw: dict[str, Any], prefix: str = "") -> None:
        self.path = path
        self.raw = raw
        self.prefix = prefix

    def error(self, key: str, problem: str) -> TreelineError:
        return TreelineError(f"{self.path}: {self.prefix}{key} {problem}")

    def wrong(self, key: str, value: object, needed: str) -> TreelineError:
        return self.error(key, f"is {reprlib.repr(value)}: {needed}")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.raw.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
            raise self.wrong(key, value, f"a whole number from 1 to {MAX_SIZE} is needed")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.raw.get(key)
        value = default if value is None else value
        # NaN and infinity, which Python's JSON reader accepts, are outside as well.
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
            raise self.wrong(key, value, "a number above 0 is needed")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false is needed")
        return value

    def choice(self, key: str, value: object, allowed: Iterable[str]) -> str:
        allowed = sorted(allowed)
        if not isinstance(value, str) or value not in allowed:
            raise self.wrong(key, value, f"supported are {', '.join(allowed)}")
        return value

    def section(self, key: str) -> _Fields | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object is needed")
        return _Fields(self.path, cast(dict[str, Any], value), f"{key}.")

    def strings(self, key: str) -> tuple[str, ...]:
        value = cast(object, self.raw.get(key))
        members = cast(list[object], value) if isinstance(value, list) else []
        strings = tuple(member for member in members if isinstance(member, str))
        if value is not None and (not isinstance(value, list) or len(strings) < len(members)):
            raise self.wrong(key, cast(object, value), "a list of names is needed")
        return strings


def _parse(fields: _Fields) -> ModelConfig:
    if "auto_map" in fields.raw:
        raise fields.error("auto_map", "asks for code shipped with the checkpoint: Treeline never runs such code")
    model_type = fields.choice("model_type", fields.raw.get("model_type"), FAMILIES)
    family = FAMILIES[model_type]
    fields.choice("hidden_act", fields.raw.get("hidden_act", "silu"), ["silu"])
    heads, hidden = fields.integer("num_attention_heads"), fields.integer("hidden_size")
    kv_heads = fields.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"is {kv_heads}: it must divide num_attention_heads, {heads}")
    head_dim = fields.integer("head_dim", hidden // heads)
    if head_dim % 2:
        raise fields.error("head_dim", f"is {head_dim}: rotary embedding needs an even one")
    attention_bias = fields.flag("attention_bias", False)
    return ModelConfig(
        model_type=model_type,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_hidden_layers=fields.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=fields.integer("vocab_size"),
        max_position_embeddings=_positions(fields, family),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        qkv_bias=family.qkv_bias or attention_bias,
        output_bias=attention_bias and not family.qkv_bias,
        mlp_bias=fields.flag("mlp_bias", False),
        rope=_rope(fields),
        dtype=_dtype(fields),
        awq=_awq(fields),
    )


def _positions(fields: _Fields, family: Family) -> int:
    """Return the context length; it ends with the sliding window, within which attention is full."""
    positions = fields.integer("max_position_embeddings", 2048)
    if positions > MAX_POSITIONS:
        raise fields.error("max_position_embeddings", f"is {positions}: at most {MAX_POSITIONS} are supported")
    windowed = family.sliding_window or fields.flag("use_sliding_window", False)
    return min(positions, fields.integer("sliding_window", positions)) if windowed else positions


def _rope(fields: _Fields) -> Rope:
    """Read RoPE as transformers 4 (`rope_theta`, `rope_scaling`) and as transformers 5 (`rope_parameters`) write it."""
    section = fields.section("rope_parameters") or fields.section("rope_scaling") or _Fields(fields.path, {})
    theta = section.number("rope_theta", fields.number("rope_theta", 10000.0))
    kind = section.choice("rope_type", section.raw.get("rope_type", section.raw.get("type", "default")), ROPE_TYPES)
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, section.number("factor"))
    low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
    if not low < high:
        raise section.error("high_freq_factor", f"is {high}: it must exceed low_freq_factor, {low}")
    return Rope(theta, kind, section.number("factor"), low, high, section.integer("original_max_position_embeddings"))


def _dtype(fields: _Fields) -> torch.dtype:
    name = fields.raw.get("dtype", fields.raw.get("torch_dtype")) or "float32"
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    return dtypes[fields.choice("dtype", name, dtypes)]


def _awq(fields: _Fields) -> Awq | None:
    section = fields.section("quantization_config")
    if section is None:
        return None
    version = section.raw.get("version", section.raw.get("format", "gemm"))
    found = {
        "quant_method": section.raw.get("quant_method"),
        "bits": section.raw.get("bits", section.raw.get("w_bit")),
        "version": version.lower() if isinstance(version, str) else version,
    }
    wanted = {"quant_method": "awq", "bits": 4, "version": "gemm"}
    for key, value in wanted.items():
        if found[key] != value:
            raise section.wrong(key, found[key], "supported is AWQ, 4 bits, version gemm")
    group_size = section.integer("group_size", section.raw.get("q_group_size"))
    if group_size not in AWQ_GROUP_SIZES:
        raise section.wrong("group_size", group_size, f"supported are {', '.join(map(str, AWQ_GROUP_SIZES))}")
    skipped = section.strings("modules_to_not_convert")
    return Awq(group_size, section.flag("zero_point", True), (*skipped, "lm_head"))
