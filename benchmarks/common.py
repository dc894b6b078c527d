"""What every benchmark prints beside its figures, and how."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import __version__
from engine.bench_report import Hardware, hardware, percentile

ROOT = Path(__file__).resolve().parents[1]

__all__ = ["Environment", "Spread", "environment", "print_environment", "print_json", "print_table", "spread"]


@dataclass(frozen=True, slots=True)
class Environment:
    """Where figures come from. `commit` ends in "+" when the working tree differed from it."""

    hardware: Hardware
    treeline: str
    commit: str


@dataclass(frozen=True, slots=True)
class Spread:
    """Nearest-rank percentiles of a sample."""

    count: int
    median: float
    p95: float
    max: float


def spread(values: Sequence[float]) -> Spread:
    """Summarise a sample of at least one value."""
    return Spread(len(values), percentile(values, 0.5), percentile(values, 0.95), max(values))


def completing(name: str, description: str | None, max_tokens: int) -> argparse.ArgumentParser:
    """Return the command line of a benchmark that lets a pair complete cases."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--cases", type=Path, default=Path("runs/cases.jsonl"), help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="cases (default: all)")
    parser.add_argument("--max-tokens", type=int, default=max_tokens, help="tokens a completion (default: %(default)s)")
    parser.add_argument("--model", default="bundled", help="default: %(default)s")
    parser.add_argument("--drafter", default="auto", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def environment() -> Environment:
    """Describe this machine, these versions and this commit."""
    return Environment(hardware(), __version__, _commit())


def print_environment(where: Environment) -> None:
    """One line for people."""
    machine = where.hardware
    memory = f"{machine.memory_bytes / 2**30:.0f} GiB"
    versions = f"Python {machine.python}, torch {machine.torch}, Treeline {where.treeline} at {where.commit}"
    print(f"{machine.processor}, {machine.threads} threads, {memory}, {machine.system}; {versions}")


def print_json(value: object) -> None:
    """One JSON object on standard output, and nothing else."""
    json.dump(value, sys.stdout, indent=1, default=_plain)
    print()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left-aligned first column, right-aligned others."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


def _commit() -> str:
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _plain(value: object) -> object:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)  # pyright: ignore[reportArgumentType] - a dataclass instance, as just checked
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
