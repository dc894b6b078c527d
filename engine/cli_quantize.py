"""`treeline quantize`: a dense checkpoint into one of 4 bits."""

from __future__ import annotations

import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli_exit import leaving_at_ctrl_c
from engine.config import expanded
from engine.terminal import loading_bar, write_json

if TYPE_CHECKING:
    from engine.quantize import Report

EXAMPLES = """
[bold]Examples[/bold]

  treeline quantize ~/models/my-coder ~/models/my-coder-awq

  treeline quantize my-coder my-coder-awq --calibration ~/src/project --group-size 64

[dim]Needs AutoAWQ; in the clone: .venv/bin/pip install -e '.\\[quantize]'. An interrupted run leaves nothing.[/dim]
"""


def quantize(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="A dense checkpoint: a directory, or a Hugging Face id in the local cache."),
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write: new or empty.")],
    group_size: Annotated[
        int, typer.Option(metavar="32|64|128", help="Weights that share a scale: fewer are more exact and larger.")
    ] = 128,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Text like what the model will read: a file, a folder of sources, or .jsonl with a text a line."
            " Default: the source of Python's standard library.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=16, metavar="N", help="Rows of 512 tokens to calibrate with, at most.")
    ] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> int:
    """Quantise a checkpoint to 4 bits (AWQ), and say what that saves and costs.

    The perplexity before and after is measured on a part of the calibration text that the quantiser was not shown.
    """
    if group_size not in (32, 64, 128):
        raise typer.BadParameter(f"{group_size}: expected 32, 64 or 128", param_hint="--group-size")
    with leaving_at_ctrl_c():
        from engine.hub import resolve
        from engine.quantize import Job, quantise

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end tidies up as Ctrl-C does
    job = Job(resolve(source), expanded(target), group_size, calibration, samples)
    with loading_bar() as progress:
        report = quantise(job, progress)
    if as_json:
        write_json(asdict(report))
    else:
        _print(report)
    return 0


def _print(report: Report) -> None:
    smaller = report.size_before / report.size_after
    worse = 100 * (report.perplexity_after / report.perplexity_before - 1)
    typer.echo(f"{report.target}: AWQ, 4 bits, group size {report.group_size}")
    typer.echo(
        f"  weights      {report.size_before:>15,} -> {report.size_after:>15,} bytes ({smaller:.2f} times smaller)"
    )
    typer.echo(
        f"  perplexity   {report.perplexity_before:>15.4f} -> {report.perplexity_after:>15.4f} ({worse:+.2f} %,"
        f" {report.judged_tokens:,} tokens)"
    )
    typer.echo(f"  calibrated   {report.calibration_rows} rows of 512 tokens from {report.calibration}")
