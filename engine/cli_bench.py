"""`treeline bench ...`: measurements that a reader can repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from engine import __version__, bench_replay_report
from engine import cli_options as options
from engine.bench import BenchSettings, Case, Result, logit_gap, read_cases, run_cases
from engine.bench_replay import ReplaySettings, replay
from engine.bench_report import Figures, GapOf, Mismatch, figures, figures_by_kind, mismatches, report
from engine.cli_engine import load_engine
from engine.cli_exit import of_field
from engine.config import REACHING, EngineConfig
from engine.errors import TreelineError
from engine.request import SamplingParams
from engine.terminal import Interrupt, counting_bar, write_json


class Client(StrEnum):
    """Whose habits the replayed editor has."""

    VSCODE = "vscode"
    NEOVIM = "neovim"


app = typer.Typer(no_args_is_help=False, help="Measure the engine. Progress goes to standard error.")


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measure the engine."""
    if context.invoked_subcommand is None:
        options.refuse_without_command(context)


_EXAMPLES = """
[bold]Examples[/bold]

  treeline bench decode --cases cases.jsonl --limit 20

  treeline bench decode --cases cases.jsonl --max-tokens 48 --temperature 0.8 --dtype float32 --json > report.json

[dim]python -m benchmarks.make_cases writes cases from packages that the bundled pair has not seen.[/dim]
"""


@app.command(epilog=_EXAMPLES)
def decode(
    cases: Annotated[
        Path,
        typer.Option(
            metavar="FILE.jsonl", help="One case a line: id, language, path, prefix, suffix, expected (and kind)."
        ),
    ],
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Take the first N cases only.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens per completion.")] = 48,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Time whole completions, reading the prompt included; otherwise decoding alone."),
    ] = False,
    fixed_length: Annotated[
        bool, typer.Option("--fixed-length", help="Go on behind the model's end tokens: every case has N tokens.")
    ] = False,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    seed: options.Seed = 0,
    model: options.Model = None,
    drafter: options.Drafter = None,
    memory: options.Memory = None,
    device: options.DeviceOption = None,
    dtype: options.DTypeOption = None,
    budget: options.Budget = None,
    verification: options.VerificationOption = None,
    layout: options.Layout = None,
    threads: options.Threads = None,
    config: options.ConfigFile = None,
) -> int:
    """Complete every case with and without speculation, and compare tokens and times.

    Both run in one process on the same weights, in alternating order; nothing is kept from one case to the next.
    """
    names = {"model": model, "drafter": drafter, "memory": memory, "device": device, "dtype": dtype, "budget": budget}
    names |= {"verification": verification, "layout": layout, "threads": threads}
    try:
        sampling = SamplingParams(temperature, top_p, top_k, repetition_penalty, seed)
    except TreelineError as error:
        raise options.bad_option(of_field(error)) from None
    engine_config = options.make_config(names, config)
    listed = read_cases(cases, limit)
    settings = BenchSettings(max_tokens, sampling, engine_config.budget, fresh, fixed_length)
    results, gap_of = _measure(engine_config, listed, settings)
    models = {key: value for key, value in asdict(engine_config).items() if key not in REACHING}
    shown = {**models, **asdict(settings), "cases_file": cases.name}
    answer = report(results, gap_of, shown, __version__)
    if as_json:
        write_json(answer)
    else:
        _print_tables(results, mismatches(results, gap_of))
    return 0


_REPLAY_EXAMPLES = """
[bold]Examples[/bold]

  treeline bench replay --cases cases.jsonl --limit 10

  treeline bench replay --cases cases.jsonl --client neovim --json > report.json

[dim]In real time: 80 characters take about 12 seconds. Status 1 if a suggestion was stale or jumped.[/dim]
"""


@app.command("replay", epilog=_REPLAY_EXAMPLES)
def replay_(
    cases: Annotated[
        Path,
        typer.Option(metavar="FILE.jsonl", help="One case a line: id, language, path, prefix, suffix, expected."),
    ],
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Take the first N cases only.")] = None,
    client: Annotated[
        Client, typer.Option(help="vscode cancels a request at the next key and counts in UTF-16; neovim does neither.")
    ] = Client.VSCODE,
    characters: Annotated[
        int, typer.Option(min=1, metavar="N", help="Type at least N characters a case, if the file has so many.")
    ] = 80,
    gap_scale: Annotated[
        float, typer.Option(min=0.0, metavar="X", help="Multiply the 40 to 300 ms from key to key.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="S", help="Of gaps, slips, detours and acceptance.")] = 0,
    starts: Annotated[
        int, typer.Option(min=0, metavar="N", help="Start the server N times more, to time its start.")
    ] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    model: options.Model = None,
    drafter: options.Drafter = None,
    memory: options.Memory = None,
    device: options.DeviceOption = None,
    dtype: options.DTypeOption = None,
    threads: options.Threads = None,
    config: options.ConfigFile = None,
) -> int:
    """Type every case key by key, in real time, through a language server and a daemon of its own.

    Slips, deletes, detours, brackets that the editor closes, and accepted suggestions included.
    """
    names = {"model": model, "drafter": drafter, "memory": memory, "device": device, "dtype": dtype, "threads": threads}
    engine_config = options.make_config(names, config)
    listed = read_cases(cases, limit)
    settings = ReplaySettings(client.value, characters, gap_scale, seed, starts=starts)
    with counting_bar("typing", len(listed)) as progress:
        seen = replay(engine_config, listed, settings, progress)
    shown = {key: value for key, value in asdict(engine_config).items() if key not in REACHING}
    answer = bench_replay_report.report(seen, settings, {**shown, "cases_file": cases.name}, __version__)
    if as_json:
        write_json(answer)
    else:
        _print_rows(bench_replay_report.rows(answer))
    if wrong := bench_replay_report.failures(answer):
        raise TreelineError(wrong)
    return 0


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _measure(config: EngineConfig, cases: Sequence[Case], settings: BenchSettings) -> tuple[list[Result], GapOf]:
    engine = load_engine(config)
    with Interrupt() as interrupt, counting_bar("decoding", len(cases)) as progress:
        results = run_cases(engine, cases, settings, progress, interrupt.requested)
    return results, lambda result, position: logit_gap(engine, result, position, settings)


def _print_tables(results: Sequence[Result], differing: Sequence[Mismatch]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("cursor", no_wrap=True)
    titles = ("cases", "line\nexact", "per\npass", "tokens/s", "one by\none", "speed-up", "p50\nms", "p95\nms")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for kind, row in figures_by_kind(results).items():
        table.add_row(*_cells(kind, row))
    table.add_section()
    table.add_row(*_cells("all", figures(results)))
    console = Console()
    console.print(table)
    console.print(f"{len(differing)} of {len(results)} cases differ between the two modes")
    for row in differing:
        tokens = f"{row.speculative_token} and {row.autoregressive_token}"
        console.print(
            f"  {row.id}: tokens {tokens} at {row.position}, gap of the two best logits {row.logit_gap:.4f}",
            highlight=False,
        )


def _cells(name: str, row: Figures) -> tuple[str, ...]:
    return (
        name,
        str(row.cases),
        f"{row.line_exact_match:.1%}",
        f"{row.accepted_per_pass:.2f}",
        f"{row.tokens_per_second:.1f}",
        f"{row.autoregressive_tokens_per_second:.1f}",
        f"{row.speedup:.2f}x",
        f"{row.latency_ms.p50:.0f}",
        f"{row.latency_ms.p95:.0f}",
    )
