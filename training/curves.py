"""Draw the losses of training runs as an SVG: ``train.jsonl`` of each run, over tokens."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from training.common import TrainingError, default_cache, progress, require

WIDTH, HEIGHT, LEFT, TOP, GAP = 420, 220, 46, 28, 30
_STYLE = "font-family:sans-serif;font-size:11px;fill:#444"


def read_log(path: Path) -> dict[str, list[tuple[float, float]]]:
    """(millions of tokens, nats) of the training and the held-out loss; of steps logged twice, the last counts."""
    rows = {row["step"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    ordered = [rows[step] for step in sorted(rows)]
    return {name: [(r["tokens"] / 1e6, r[name]) for r in ordered if name in r] for name in ("loss", "heldout")}


def panel(title: str, curves: dict[str, list[tuple[float, float]]], left: int) -> str:
    """One run: axes, its two curves, their last values."""
    points = [point for curve in curves.values() for point in curve]
    right = max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    def place(x: float, y: float) -> str:
        return f"{left + x / right * WIDTH:.1f},{TOP + (high - y) / (high - low) * HEIGHT:.1f}"

    parts = [
        f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ccc"/>',
        f'<text x="{left}" y="{TOP - 10}" style="{_STYLE}">{title}: nats per token over millions of tokens</text>',
        f'<text x="{left + WIDTH}" y="{TOP + HEIGHT + 16}" text-anchor="end" style="{_STYLE}">{right:.1f}</text>',
        f'<text x="{left}" y="{TOP + HEIGHT + 16}" style="{_STYLE}">0</text>',
    ]
    parts += [
        f'<text x="{left - 4}" y="{TOP + (high - y) / (high - low) * HEIGHT + 4:.0f}" text-anchor="end" '
        f'style="{_STYLE}">{y:.2f}</text>'
        for y in (low + (high - low) * step / 4 for step in range(5))
    ]
    for curve, colour in zip(curves.values(), ("#4a7ebb", "#c0504d"), strict=True):
        if curve:
            line = " ".join(place(x, y) for x, y in curve)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    legend = '<tspan fill="#4a7ebb">training</tspan> <tspan fill="#c0504d">held out</tspan>'
    parts.append(f'<text x="{left + WIDTH - 8}" y="{TOP + 16}" text-anchor="end" style="{_STYLE}">{legend}</text>')
    return "\n".join(parts)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.curves", description=__doc__)
    parser.add_argument("out", type=Path, help=".svg file to write")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--names", nargs="+", default=["target", "drafter"], help="runs (default: target drafter)")
    a = parser.parse_args()
    try:
        logs = {name: read_log(require(a.cache / name / "train.jsonl", "training.train")) for name in a.names}
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    step = WIDTH + LEFT + GAP
    panels = "\n".join(panel(name, log, LEFT + step * index) for index, (name, log) in enumerate(logs.items()))
    size = f'width="{step * len(logs)}" height="{TOP + HEIGHT + 28}"'
    a.out.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{panels}\n</svg>\n', encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
