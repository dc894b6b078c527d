"""What `treeline plan` says: a plan, what it costs and yields, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.errors import TreelineError
from engine.hub import resolve_pair
from engine.kernels import cpu
from engine.model.config import ModelConfig
from engine.model.weights import Checkpoint
from engine.models import find_preset
from engine.offload.demand import Demand, available_memory, cpu_demand, gpu_demand, parameters, resident_bytes
from engine.offload.direct import DirectFile
from engine.offload.measure import best_bandwidth, compute_seconds, interpolated, reading_cost
from engine.offload.planner import Advice, Costs, Forecast, Plan, advice, forecast, make_plan, step_seconds
from engine.offload.shapes import Gpu, find_gpu, find_shape
from engine.offload.store import store_path
from engine.tokenizer import Tokenizer

ROWS = (1, 8, 16, 32, 64, 128, 256)
NO_DISK = 1e9  # bytes per second, assumed where nothing is there to measure with
GPU_EFFICIENCY = 0.8  # of the card's memory bandwidth that small batches reach
GPU_MATRIX_EFFICIENCY = 0.5  # of its arithmetic that int4 products with many rows reach


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user told beyond the settings; None: found out. `disk` in bytes per second."""

    model_shape: str | None
    drafter_shape: str | None
    context: int | None
    disk: int | None
    acceptance: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PlanReport:
    """A plan for `machine`, with the seconds of a pass by its rows, and the best tree at the `acceptance` given.

    `disk`, `reading` and `link`: see Costs; `disk` is None where the model's files are too small to measure it with.
    """

    model: str
    drafter: str
    machine: str
    measured: bool
    plan: Plan
    disk: float | None
    reading: float
    link: float | None
    acceptance: tuple[float, ...]
    passes: tuple[tuple[int, float], ...]
    best: Forecast
    advice: tuple[Advice, ...]


def plan_here(config: EngineConfig, wanted: Wanted) -> PlanReport:
    """Plan for this machine's CPU: computing is measured, the disk too unless told. Raises TreelineError."""
    name, target, drafter_name, drafter, process = _models(config, wanted)
    if not cpu.available():
        raise TreelineError("the native CPU kernels are needed to stream a target: install a C++ compiler")
    cpu.use_threads(config.threads, native_only=True)
    demand = cpu_demand(target, drafter, process, budget=config.budget)
    compute = interpolated(compute_seconds(target, ROWS, repeats=2))
    draft = compute_seconds(drafter, (1, 4), repeats=2)[4] if drafter else 0.0
    disk, reading = _disk(config, wanted)
    costs = Costs(compute, disk, None, draft, reading)
    memory = config.memory or available_memory()
    if memory is None:
        raise TreelineError("how much memory is free is not known here: give --memory")
    return _report(_Names(name, drafter_name, "cpu"), demand, memory, target, costs, wanted)


def plan_gpu(config: EngineConfig, wanted: Wanted, gpu_name: str, host: int) -> PlanReport:
    """Predict for a GPU from its data sheet. `host`: bytes of the host's memory for layers. Raises TreelineError."""
    gpu = find_gpu(gpu_name)
    name, target, drafter_name, drafter, _ = _models(config, wanted)
    draft = 2 * parameters(drafter) / (gpu.memory_bandwidth * GPU_EFFICIENCY) if drafter else 0.0
    costs = Costs(_gpu_compute(target, gpu), wanted.disk or NO_DISK, gpu.link, draft)
    memory = config.memory or gpu.memory
    demand = gpu_demand(target, drafter, config.budget)
    return _report(_Names(name, drafter_name, gpu.name), demand, memory, target, costs, wanted, host)


@dataclass(frozen=True, slots=True)
class _Names:
    model: str
    drafter: str
    machine: str


def _report(
    names: _Names, demand: Demand, memory: int, target: ModelConfig, costs: Costs, wanted: Wanted, host: int = 0
) -> PlanReport:
    def planned(more: int = 0) -> Plan:
        return make_plan(demand, memory + more, plan_context, target.max_position_embeddings, host)

    plan_context = wanted.context
    plan = planned()
    plan_context = plan.context
    if plan.disk_bytes and not costs.disk:
        raise TreelineError(
            f"{names.model} does not fit into {memory / 2**20:.0f} MiB and has to be streamed, but its files are too"
            " small to measure the disk with: give --disk, as in --disk 2GB"
        )
    best = forecast(plan, costs, wanted.acceptance)
    return PlanReport(
        model=names.model,
        drafter=names.drafter,
        machine=names.machine,
        measured=names.machine == "cpu",
        plan=plan,
        disk=costs.disk or None,
        reading=costs.reading,
        link=costs.link,
        acceptance=wanted.acceptance,
        passes=tuple((rows, step_seconds(plan, costs, rows)) for rows in ROWS),
        best=best,
        advice=tuple(advice(planned, plan, costs, wanted.acceptance)),
    )


def _models(config: EngineConfig, wanted: Wanted) -> tuple[str, ModelConfig, str, ModelConfig | None, int | None]:
    """Names and shapes of target and drafter, and what the process holds with their tokenizer (None: not known)."""
    if wanted.model_shape:
        drafter = wanted.drafter_shape or ("codedrafter-500m" if wanted.model_shape.startswith("llama") else "none")
        shape = None if drafter == "none" else find_shape(drafter)
        return wanted.model_shape, find_shape(wanted.model_shape), drafter, shape, None
    pair = resolve_pair(config)
    tokenizer = Tokenizer.load(pair.target)  # loaded so that its memory is counted
    drafter = ModelConfig.load(pair.drafter) if pair.drafter else None
    process = resident_bytes()
    del tokenizer
    return config.model, ModelConfig.load(pair.target), _drafter_name(config), drafter, process


def _drafter_name(config: EngineConfig) -> str:
    """As the user calls it, or as the preset does."""
    preset = find_preset(config.model)
    return config.drafter if config.drafter != "auto" else preset.drafter if preset else "none"


def _disk(config: EngineConfig, wanted: Wanted) -> tuple[float, float]:
    """Bandwidth (0: not known) and cost of reading.

    Without a model's files the one has to be told and the other is not known.
    """
    if wanted.model_shape:
        if wanted.disk is None:
            raise TreelineError(
                "how fast the disk reads is not known without a model's files: give --disk, as in --disk 2GB"
            )
        return wanted.disk, 0.0
    with largest_file(resolve_pair(config).target) as (file, size):
        return wanted.disk or best_bandwidth(file, size), reading_cost(file, size)


@contextmanager
def largest_file(directory: Path) -> Generator[tuple[DirectFile, int]]:
    """The store of the model in `directory`, or the largest of its weight files: to measure with, and its size."""
    files = [store_path(directory), *set(Checkpoint.open(directory, partial=True).files.values())]
    largest = max((path for path in files if path.exists()), key=lambda path: path.stat().st_size)
    file = DirectFile(largest)
    try:
        yield file, largest.stat().st_size
    finally:
        file.close()


def _gpu_compute(target: ModelConfig, gpu: Gpu) -> Callable[[int], float]:
    """A pass is bound by reading the weights, or by arithmetic where there are many rows."""
    weights = parameters(target)
    read = (weights / 2 * 1.04 + 2 * target.vocab_size * target.hidden_size) / (gpu.memory_bandwidth * GPU_EFFICIENCY)
    return lambda rows: max(read, 2 * weights * rows / (gpu.flops * GPU_MATRIX_EFFICIENCY))


def as_json(report: PlanReport) -> dict[str, Any]:
    """As one JSON object: the fields of the report and what follows from them."""
    facts = asdict(report)
    facts["plan"]["streamed"] = len(report.plan.streamed)
    for name in ("streamed_bytes", "resident_bytes", "host_bytes", "disk_bytes"):
        facts["plan"][name] = getattr(report.plan, name)
    facts["best"]["tokens_per_second"] = report.best.rate
    facts["plan"]["items"] = dict(report.plan.items)
    facts["passes"] = [{"rows": rows, "seconds": seconds} for rows, seconds in report.passes]
    return facts
