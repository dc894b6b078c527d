"""What this machine has for Treeline, what is missing, and which model would fit it. Loads no model."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from engine import __version__, hub, launch
from engine.config import EngineConfig, config_path, load_config
from engine.disk import free_space
from engine.errors import TreelineError
from engine.extras import installing
from engine.models import GIB, PRESETS

Verdict = Literal["ok", "note", "problem"]

# By what they are for: the packages, and the extra of Treeline that installs them.
_EXTRAS = {
    "engine in the background": (("starlette", "uvicorn", "pydantic", "httpx"), "server"),
    "language server": (("pygls", "lsprotocol"), "lsp"),
    "web chat": (("gradio",), "web"),
}
_CPU_SPARE = 5 * GIB  # of a machine's memory, for the system and an editor, beside the preset's own


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice`: what to do about it, where something is to be done."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes of memory, and of the GPU's (0: there is none that torch can use)."""

    memory: int
    gpu: int


def examine(file: Path | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look at everything. `file`: the configuration, if not the usual one."""
    yield Finding("Treeline", "ok", f"{__version__}, Python {platform.python_version()}, {sys.executable}")
    yield from _torch()
    yield from _memory()
    for what, (packages, extra) in _EXTRAS.items():
        yield _extra(what, packages, extra)
    yield from _configuration(file, environment)
    yield from _daemons(environment)


def suggested(machine: Machine) -> str:
    """Return the name of the largest preset that fits a machine."""
    fitting = [p for p in PRESETS if p.name.startswith("gpu-") and p.memory and p.memory <= machine.gpu]
    if fitting:
        return max(fitting, key=lambda preset: preset.memory or 0).name
    cpu = next(preset for preset in PRESETS if preset.name == "cpu")
    return cpu.name if (cpu.memory or 0) + _CPU_SPARE <= machine.memory else "bundled"


def this_machine() -> Machine:
    """Look how much memory there is."""
    try:
        from engine.kernels.device import gpu_memory

        return Machine(physical_memory(), gpu_memory()[1])
    except ImportError:  # no torch
        return Machine(physical_memory(), 0)


def physical_memory() -> int:
    """Return this machine's memory in bytes; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):
        return 0


def _torch() -> Iterator[Finding]:
    try:
        from engine.kernels.build import find_compiler
        from engine.kernels.device import gpu_memory, gpu_name
        from engine.kernels.native import backend, library
    except ImportError as error:
        yield Finding("PyTorch", "problem", str(error), "pip install torch")
        return
    yield Finding("PyTorch", "ok", version("torch"))
    free, total = gpu_memory()
    if total:
        yield Finding("GPU", "ok", f"{gpu_name()}, {total / GIB:.1f} GiB, of which {free / GIB:.1f} are free")
    else:
        yield Finding("GPU", "note", "torch finds none: the CPU computes")
    cores = os.cpu_count() or 1
    kernels = library()
    if kernels is not None:
        able = f"{cores} cores, {kernels.tl_instruction_set().decode()}"
        yield _checked("CPU kernels", lambda: f"{able}; in use: {backend()}")
    else:
        missing = "no C++ compiler was found" if find_compiler() is None else "they could not be compiled"
        yield Finding(
            "CPU kernels",
            "note",
            f"{cores} cores; {missing}, so torch's operators are used: completions take tens of times as long",
            "install g++ (on Debian: apt install g++) or clang++",
        )


def _memory() -> Iterator[Finding]:
    from engine.kernels.build import cache_directory

    total = physical_memory()
    yield Finding("memory", "ok", f"{total / GIB:.1f} GiB" if total else "the system does not say")
    _, free = free_space(cache_directory())
    yield Finding("disk", "ok", f"{free / GIB:.0f} GiB free for {cache_directory()}")


def _extra(what: str, packages: tuple[str, ...], extra: str) -> Finding:
    found: list[str] = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            return Finding(what, "note", f"{name} is not installed", installing(extra))
    return Finding(what, "ok", ", ".join(found))


def _configuration(file: Path | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    path = config_path(environment, file)
    try:
        config = load_config({}, file, environment)
    except TreelineError as error:
        yield Finding("configuration", "problem", str(error), "correct it, or remove the line")
        return
    yield Finding("configuration", "ok", str(path) if path.exists() else f"{path} does not exist: all as by default")
    if config.url is not None:
        yield Finding("model", "ok", f"{config.model} at {config.url}")
        return
    yield _checked("model", lambda: _pair(config))


def _pair(config: EngineConfig) -> str:
    pair = hub.resolve_pair(config)
    return (
        f"{config.model} in {pair.target}; drafter in {pair.drafter}" if pair.drafter else f"{pair.target}, no drafter"
    )


def _checked(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", look())
    except TreelineError as error:
        return Finding(what, "problem", str(error))


def _daemons(environment: Mapping[str, str]) -> Iterator[Finding]:
    try:
        found = list(launch.running(environment))
    except TreelineError as error:
        yield Finding("running engines", "problem", str(error))
        return
    for each in found:
        health = each.health or {}
        state = f"{health.get('model', '?')}: {health.get('status', 'does not answer')}"
        answers = each.health is not None
        advice = "" if answers else "treeline serve stop"
        yield Finding("running engine", "ok" if answers else "problem", f"{state}, process {each.pid}", advice)
    if not found:
        yield Finding("running engines", "ok", "none: the first completion starts one")
