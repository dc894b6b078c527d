"""`treeline quantize`: a dense checkpoint into AWQ's 4-bit "gemm" layout, by AutoAWQ, checked before and judged after.

Everything that can be refused is refused before the work starts. The new checkpoint is written beside its place and
moved there in one rename, so that an interruption leaves nothing at the place itself.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from engine import autoawq
from engine.calibration import ROW, Calibration, perplexity, read_calibration
from engine.disk import free_space
from engine.errors import TreelineError
from engine.model.config import AWQ_GROUP_SIZES, ModelConfig
from engine.model.weights import INDEX, Checkpoint
from engine.offload.demand import available_memory, layer_parameters, parameters
from engine.tokenizer import Tokenizer

Progress = Callable[[str, int, int], None]

SHARD = 5 * 2**30  # bytes of a weight file at most
SPARE = 512 * 2**20  # bytes of memory for Python, torch and transformers
OUTPUT_MULTIPLE = 64  # AutoAWQ searches the clipping of so many outputs at a time
# What goes over unchanged: how to tokenise, to chat, to end. Weights and config.json are written anew.
_COMPANIONS = ("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json")
_MORE_COMPANIONS = ("vocab.json", "merges.txt", "chat_template*", "LICENSE*", "NOTICE*")


@dataclass(frozen=True, slots=True)
class Job:
    """What to quantise, where to, and how; `calibration` None: Python's standard library."""

    source: Path
    target: Path
    group_size: int = 128
    calibration: Path | None = None
    samples: int = 128


@dataclass(frozen=True, slots=True)
class Report:
    """A quantised checkpoint beside its source; sizes are of the weight files in bytes."""

    target: str
    group_size: int
    calibration: str
    calibration_rows: int
    size_before: int
    size_after: int
    perplexity_before: float
    perplexity_after: float
    judged_tokens: int


def quantise(job: Job, progress: Progress | None = None) -> Report:
    """Do the job. Raises TreelineError, with nothing at `job.target`, where it cannot be done."""
    config = _check_source(job)
    _check_target(job.target)
    size = Checkpoint.open(job.source).bytes()
    _check_room(job, config)
    rows = read_calibration(job.source / "tokenizer.json", job.calibration, job.samples)
    autoawq.require()
    before = perplexity(job.source, rows.judged, "measuring", progress)
    with _beside(job.target) as folder:
        tensors = autoawq.quantise(job.source, rows.shown, job.group_size, progress)
        _write(folder, tensors, config, progress)
        del tensors
        _write_companions(job, folder)
        after = perplexity(folder, rows.judged, "measuring", progress)
        written = Checkpoint.open(folder).bytes()
    return _report(job, rows, (size, written), (before, after))


def _report(job: Job, rows: Calibration, sizes: tuple[int, int], perplexities: tuple[float, float]) -> Report:
    judged = sum(len(row) - 1 for row in rows.judged)
    return Report(str(job.target), job.group_size, rows.origin, len(rows.shown), *sizes, *perplexities, judged)


def _check_source(job: Job) -> ModelConfig:
    config = ModelConfig.load(job.source)
    if config.awq is not None:
        raise TreelineError(f"{job.source} is quantised already (AWQ, group size {config.awq.group_size})")
    Checkpoint.open(job.source)
    Tokenizer.load(job.source)
    if job.group_size not in AWQ_GROUP_SIZES:
        raise TreelineError(f"group size {job.group_size}: supported are {', '.join(map(str, AWQ_GROUP_SIZES))}")
    attention = config.num_attention_heads * config.head_dim
    inputs = {"hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size, "heads": attention}
    for name, size in inputs.items():
        if size % job.group_size:
            raise TreelineError(f"{job.source}: {name} of {size} is no multiple of the group size {job.group_size}")
    outputs = (*inputs.values(), config.num_key_value_heads * config.head_dim)
    if any(size % OUTPUT_MULTIPLE for size in outputs):
        raise TreelineError(f"{job.source}: AutoAWQ quantises layers with multiples of {OUTPUT_MULTIPLE} outputs only")
    return config


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise TreelineError(f"{target} is a file: give a folder that is new or empty")
    if target.is_dir() and any(target.iterdir()):
        raise TreelineError(f"{target} is not empty: give a new folder, or empty it")
    if target.is_symlink():
        raise TreelineError(f"{target} is a link: give the folder itself")


def _check_room(job: Job, config: ModelConfig) -> None:
    linear = config.num_hidden_layers * layer_parameters(config)
    other = parameters(config) - linear
    disk = linear // 2 + linear // job.group_size * 5 // 2 + other * 2 + 2**20
    place, free = free_space(job.target.absolute().parent)
    if disk > free:
        raise TreelineError(
            f"{job.target} needs {_gb(disk)}, {place} has {_gb(free)} free: make room, or choose another disk"
        )
    attention = config.num_attention_heads * config.head_dim
    features = 5 * config.hidden_size + attention + config.intermediate_size
    widest = max(config.hidden_size, attention, config.intermediate_size)
    memory = (linear + other) * 4 + autoawq.working_memory(job.samples, ROW, widest, features) + SPARE
    available = available_memory()
    if available is not None and memory > available:
        raise TreelineError(
            f"quantising {job.source} takes {_gb(memory)} of memory (float32 weights, and what a layer's search needs),"
            f" {_gb(available)} are available: use a larger machine, or fewer --samples"
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


@contextmanager
def _beside(target: Path) -> Generator[Path]:
    """A new folder next to `target` that takes its place if nothing went wrong, and is deleted if something did."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    folder.chmod(0o755)
    try:
        yield folder
        _check_target(target)  # somebody may have filled it meanwhile
        if target.exists():
            target.rmdir()
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, tensors: dict[str, Tensor], config: ModelConfig, progress: Progress | None) -> None:
    """Write the tensors as published AWQ checkpoints have them: the rest in fp16, large ones in indexed shards."""
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    shards = list(_shards({name: _published(name, tensors[name]) for name in sorted(tensors)}))
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        if progress:
            progress("writing", number - 1, len(shards))
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)  # safetensors makes files that only their owner may read
        index |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})


def _published(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.cpu().contiguous()
    half = tensor.to("cpu", torch.float16).contiguous()
    if not bool(half.isfinite().all()):
        raise TreelineError(f"{name} does not fit float16, in which AWQ keeps it")
    return half


def _shards(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > SHARD:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _write_companions(job: Job, folder: Path) -> None:
    raw: dict[str, Any] = json.loads((job.source / "config.json").read_text(encoding="utf-8"))
    raw.pop("dtype", None)
    raw["torch_dtype"] = "float16"
    raw["quantization_config"] = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": job.group_size,
        "zero_point": True,
        "modules_to_not_convert": None,
    }
    _write_json(folder / "config.json", raw)
    for pattern in (*_COMPANIONS, *_MORE_COMPANIONS):
        for path in sorted(job.source.glob(pattern)):
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
            else:
                shutil.copyfile(path, folder / path.name)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
