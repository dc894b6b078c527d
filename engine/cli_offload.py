"""`treeline plan`, `treeline repack` and `treeline bench offload`: targets that are larger than memory."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine import cli_options as options
from engine.cli_exit import leaving_at_ctrl_c
from engine.config import parse_size
from engine.document import read_document
from engine.terminal import counting_bar, loading_bar, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from engine.bench_offload import OffloadReport
    from engine.offload.report import PlanReport

ACCEPTANCE = "0.7,0.1,0.04,0.02"

_EXAMPLES = """
[bold]Examples[/bold]

  treeline plan --model llama-3.1-70b --memory 6GiB          this machine, measured

  treeline plan --model-shape llama-3.1-70b --gpu rtx4090    another one, predicted

  treeline plan --model-shape llama-3.1-70b --gpu 12gb --host-memory 16GiB --json
"""


def plan(
    model: options.Model = None,
    drafter: options.Drafter = None,
    model_shape: Annotated[
        str | None, typer.Option(metavar="NAME", help="Plan for a model of this shape, which need not be here.")
    ] = None,
    drafter_shape: Annotated[
        str | None, typer.Option(metavar="NAME|none", help="The drafter's shape, with --model-shape.")
    ] = None,
    memory: options.Memory = None,
    context_length: Annotated[
        int | None, typer.Option(min=64, metavar="N", help="Tokens of context. Default: what leaves room for weights.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(metavar="NAME", help="Plan for this GPU: rtx4090, l40, 12gb, ...")] = None,
    host_memory: Annotated[
        str, typer.Option(metavar="SIZE", help="With --gpu: the host's memory for layers that the GPU cannot hold.")
    ] = "64GiB",
    disk: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes per second that the disk reads. Default: measured.")
    ] = None,
    acceptance: Annotated[
        str,
        typer.Option(metavar="P1,P2,...", help="How often the drafter's first, second, ... guess is the right one."),
    ] = ACCEPTANCE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    threads: options.Threads = None,
    config: options.ConfigFile = None,
) -> int:
    """Say where a target's layers would go, how long a pass would take, and what would help most."""
    settings = options.make_config({"model": model, "drafter": drafter, "memory": memory, "threads": threads}, config)
    chances = _chances(acceptance)
    host, bandwidth = _size("--host-memory", host_memory), _size("--disk", disk)
    with leaving_at_ctrl_c():
        from engine.offload import report

    wanted = report.Wanted(model_shape, drafter_shape, context_length, bandwidth, chances)
    with loading_bar() as progress:
        if progress:
            progress("measuring", 0, 0)
        answer = report.plan_gpu(settings, wanted, gpu, host or 0) if gpu else report.plan_here(settings, wanted)
    if as_json:
        write_json(report.as_json(answer))
    else:
        _print_plan(answer)
    return 0


def _chances(text: str) -> tuple[float, ...]:
    try:
        chances = tuple(float(part) for part in text.split(","))
    except ValueError:
        chances = ()
    if not chances or not all(0 <= chance <= 1 for chance in chances) or sum(chances) > 1:
        raise typer.BadParameter(
            f"{text!r}: expected chances from 0 to 1 of at most 1 together", param_hint="--acceptance"
        )
    return chances


def _size(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else parse_size(text)
    except ValueError:
        raise typer.BadParameter(f'{text!r}: expected a size such as "8GiB"', param_hint=option) from None


def repack(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A preset, a checkpoint directory, a Hugging Face id.")],
    consume_source: Annotated[
        bool,
        typer.Option(
            "--consume-source",
            help="Delete each weight file once all of it is in the store, read back and compared: for disks that do"
            " not hold both. The model can then be used with --memory only.",
        ),
    ] = False,
) -> int:
    """Make the file that a target is streamed from, or check the one there is, and print where it is.

    `--memory` does the same when it first needs the file.
    """
    with leaving_at_ctrl_c():
        from engine.hub import resolve
        from engine.offload.repack import open_store

    directory = resolve(model)
    with loading_bar() as progress:
        store = open_store(directory, progress, consume_source)
        for number, piece in enumerate(store.pieces):
            if progress:
                progress("checking", number, len(store.pieces))
            store.check(piece)
    typer.echo(str(store.path))
    return 0


def bench_offload(
    memory: options.Memory = None,
    model: options.Model = None,
    drafter: options.Drafter = None,
    prompt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A source file to complete at its end. Default: a short one.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of the completion.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="How often everything is measured.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    threads: options.Threads = None,
    config: options.ConfigFile = None,
) -> int:
    """Stream a target within --memory; compare its passes with the disk's own speed and with the plan.

    The disk is measured with several read shapes between the passes, in every round.
    """
    settings = options.make_config({"model": model, "drafter": drafter, "memory": memory, "threads": threads}, config)
    if settings.memory is None:
        raise typer.BadParameter("a size is needed", param_hint="--memory")
    text = None if prompt is None else read_document(str(prompt)).text
    from engine import bench_offload as bench

    with loading_bar() as progress:
        engine, loaded, computing = bench.load(settings, progress)
    with counting_bar("measuring", rounds * len(bench.ROWS) + 2) as progress:
        request = bench.default_request(text or bench.PROMPT, max_tokens)
        answer = bench.bench_offload(engine, loaded, computing, request, rounds, progress)
    engine.close()
    if as_json:
        write_json(asdict(answer))
    else:
        _print_bench(answer)
    return 0


def register(app: typer.Typer, bench: typer.Typer) -> None:
    """Add the commands to the command line and to its group `bench`."""
    app.command(epilog=_EXAMPLES)(plan)
    app.command()(repack)
    bench.command("offload")(bench_offload)


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _print_plan(report: PlanReport) -> None:
    from rich.console import Console

    console, shown = Console(), report.plan
    how = "measured on this machine" if report.measured else "predicted from data sheets, not measured"
    console.print(f"{report.model}, drafter {report.drafter}, on {report.machine} ({how})", highlight=False)
    memory = _table("memory", "MiB")
    for name, size in shown.items:
        if size:
            memory.add_row(name, f"{size / 2**20:,.0f}")
    memory.add_section()
    memory.add_row("used", f"{shown.used / 2**20:,.0f}")
    memory.add_row("allowed", f"{shown.memory / 2**20:,.0f}")
    memory.add_row("least that works", f"{shown.least / 2**20:,.0f}")
    console.print(memory)
    console.print(
        f"{sum(shown.pieces) / 1e9:.2f} GB of weights: {shown.resident_bytes / 1e9:.2f} resident,"
        f" {shown.host_bytes / 1e9:.2f} from host memory, {shown.disk_bytes / 1e9:.2f} from disk;"
        f" {shown.streamed_bytes / 1e9:.2f} GB streamed per pass; context {shown.context}",
        highlight=False,
    )
    link = f", link {report.link / 1e9:.1f} GB/s" if report.link else ""
    cost = f", {1e9 * report.reading:.3f} s of computing lost per GB read" if report.reading else ""
    disk = f"{report.disk / 1e9:.2f} GB/s" if report.disk else "not measured"
    console.print(f"disk {disk}{cost}{link}", highlight=False)
    passes = _table("rows of a pass", *(str(rows) for rows, _ in report.passes))
    passes.add_row("seconds", *(f"{seconds:.3f}" for _, seconds in report.passes))
    console.print(passes)
    chances = ", ".join(f"{chance:g}" for chance in report.acceptance)
    console.print(
        f"at acceptance {chances}: trees of {report.best.nodes} nodes, {report.best.depth} deep;"
        f" {report.best.tokens:.2f} tokens per pass in {report.best.seconds:.3f} s: {report.best.rate:.2f} tokens/s",
        highlight=False,
    )
    for each in report.advice:
        console.print(f"{each.change}: {each.saved:.2f} s less per pass, {each.rate:.2f} tokens/s", highlight=False)


def _print_bench(report: OffloadReport) -> None:
    from rich.console import Console

    from engine.bench_offload import timeline

    console = Console()
    console.print(
        f"{report.resident_bytes / 1e9:.2f} GB of weights resident, {report.streamed_bytes / 1e9:.2f} GB streamed per"
        f" pass, context {report.context}; memory {report.memory / 2**20:.0f} MiB,"
        f" peak {report.peak_rss_bytes / 2**20:.0f} MiB",
        highlight=False,
    )
    shapes = ", ".join(f"{shape}: {value / 1e9:.2f}" for shape, value in report.read_shapes.items())
    console.print(f"disk, GB/s: {shapes}; {1e9 * report.reading:.3f} s of computing lost per GB read", highlight=False)
    table = _table("rows", "seconds", "GB/s", "raw GB/s", "ratio", "computing alone", "predicted")
    for row in report.passes:
        table.add_row(
            str(row.rows), f"{row.seconds:.3f}", f"{row.bandwidth / 1e9:.2f}", f"{row.raw / 1e9:.2f}",
            f"{row.ratio:.3f}", f"{row.compute:.3f}", f"{row.predicted:.3f}",
        )  # fmt: skip
    console.print(table)
    stats = report.completion
    console.print(
        f"completion: {stats.new_tokens} tokens in {stats.target_passes} passes ({stats.accepted_per_pass:.2f} per"
        f" pass), {report.seconds_per_pass:.3f} s per pass, {stats.tokens_per_second:.2f} tokens/s; the disk was busy"
        f" in {report.reading_while_drafting:.0%} of the time between passes",
        highlight=False,
    )
    for line in timeline(report.timeline, 2.5 * report.seconds_per_pass):
        sys.stdout.write(line + "\n")
