"""The command `treeline`. Nothing here imports torch before a model is needed: help and usage errors are immediate."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, cast

import typer
from typer.main import get_command

from engine import (
    __version__,
    cli_bench,
    cli_chat,
    cli_complete,
    cli_doctor,
    cli_models,
    cli_offload,
    cli_quantize,
    cli_serve,
)
from engine import cli_options as options
from engine.cli_complete import Arguments
from engine.cli_exit import INTERRUPTED, USAGE, UsageError, complain, guarded

# typer has had a copy of click of its own since 0.2x: the base of all complaints about usage is reached through typer
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(name="treeline", rich_markup_mode="rich", add_completion=False, pretty_exceptions_enable=False)
app.add_typer(cli_bench.app, name="bench")
app.add_typer(cli_serve.app, name="serve")
app.add_typer(cli_models.app, name="models")
app.command("chat", epilog=cli_chat.EXAMPLES)(cli_chat.chat)
app.command("doctor")(cli_doctor.doctor)
cli_offload.register(app, cli_bench.app)
app.command("quantize", epilog=cli_quantize.EXAMPLES)(cli_quantize.quantize)


class Until(StrEnum):
    """Where `--until` ends a completion."""

    LINE = "line"
    BLOCK = "block"


_EXAMPLES = """
[bold]Examples[/bold]

  treeline complete app.py                            at the end of the file

  treeline complete app.py --line 12 --until line     the rest of line 12

  treeline complete - --cursor 340 --json < app.py    for editors and scripts

  treeline complete app.py --model qwen2.5-coder-7b   a model in the local cache

[dim]Exit status: 0 done, 1 failed (one line says why), 2 wrong usage, 130 interrupted.[/dim]
"""


@app.callback(invoke_without_command=True)
def treeline(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Complete code with a large model: a small one drafts a tree, the large one checks it in one pass.

    The text is exactly what the large model would have written alone.
    """
    if version:
        typer.echo(f"treeline {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        options.refuse_without_command(context)


@app.command(epilog=_EXAMPLES)
def complete(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to complete; '-' reads standard input.")],
    line: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Line of the cursor, from 1. Default: the end of the file.")
    ] = None,
    column: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Column of the cursor in characters, from 1. Default: the line's end."),
    ] = None,
    cursor: Annotated[
        int | None, typer.Option(min=0, metavar="OFFSET", help="The cursor in characters from the start instead.")
    ] = None,
    stdin_filename: Annotated[
        str, typer.Option(metavar="NAME", help="What the text on standard input is called, for its language.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: text, finish_reason, tokens, stats.")
    ] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Print statistics on standard error, also when it is no terminal.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="End after N tokens.")] = 64,
    deadline_ms: Annotated[
        float | None,
        typer.Option(metavar="N", help="End after N milliseconds (loading not counted) with what is verified."),
    ] = None,
    until: Annotated[
        Until | None, typer.Option(help="End with the cursor's line, or with the block that the cursor is in.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given several times.")
    ] = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    seed: options.Seed = 0,
    no_speculation: Annotated[
        bool, typer.Option("--no-speculation", rich_help_panel="Models and speed", help="One token per pass.")
    ] = False,
    no_daemon: Annotated[
        bool,
        typer.Option(
            "--no-daemon",
            rich_help_panel="Models and speed",
            help="Load the models in this process, instead of asking the engine in the background.",
        ),
    ] = False,
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
    """Print what the model inserts at a place in a file, and nothing else."""
    names = {"model": model, "drafter": drafter, "memory": memory, "device": device, "dtype": dtype, "budget": budget}
    names |= {"verification": verification, "layout": layout, "threads": threads}
    given = Arguments(
        file,
        line,
        column,
        cursor,
        stdin_filename,
        as_json,
        stats,
        max_tokens,
        deadline_ms,
        until,
        tuple(stop or ()),
        temperature,
        top_p,
        top_k,
        repetition_penalty,
        seed,
        no_speculation,
        no_daemon,
        names,
        config,
    )
    try:
        return cli_complete.complete(given)
    except UsageError as error:
        raise options.bad_option(error) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; every failure is one line on standard error."""
    return guarded(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> object:
    try:
        return _command()(args=arguments, prog_name="treeline", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except _USAGE_ERROR as error:
        return complain(_usage_line(error), USAGE)


def _command() -> Any:
    """All commands in one, whose help shows flags without a value: typer would have them take a `<bool>`."""
    root: Any = get_command(app)
    commands = [root]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        for option in (*command.params, command.get_help_option(typer.Context(command))):
            if getattr(option, "is_flag", False):
                option.metavar = ""
    return root


def _usage_line(error: Exception) -> str:
    """Say what is wrong with the usage, and where the right one is explained."""
    complaint = cast(typer.BadParameter, error)  # what it has in common with the others is all that is used
    command = complaint.ctx.command_path if complaint.ctx is not None else "treeline"
    return f"{complaint.format_message().rstrip('.')} (see `{command} --help`)"
