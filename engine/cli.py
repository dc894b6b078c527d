"""The command `treeline`. Nothing here imports torch before a model is needed: help and usage errors are immediate."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, cast

import typer

from engine import __version__, cli_bench, cli_offload
from engine import cli_options as options
from engine.config import EngineConfig
from engine.document import read_document, split_at_line, split_at_offset
from engine.errors import TreelineError
from engine.request import CompletionRequest, SamplingParams, StopRules
from engine.terminal import Interrupt, abandon_stdout, collect, print_chunks, print_json, print_stats, use_utf8

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# typer has had a copy of click of its own since 0.2x: the base of all complaints about usage is reached through typer
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(name="treeline", rich_markup_mode="rich", add_completion=False, pretty_exceptions_enable=False)
app.add_typer(cli_bench.app, name="bench")
cli_offload.register(app, cli_bench.app)


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
            help="Run the engine in this process. So it always does for now: there is no daemon yet.",
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
    del no_daemon
    _check_cursor(line, column, cursor)
    names = {"model": model, "drafter": drafter, "memory": memory, "device": device, "dtype": dtype, "budget": budget}
    names |= {"verification": verification, "layout": layout, "threads": threads}
    stops = tuple(stop or ())
    if not all(stops):
        raise typer.BadParameter("it must not be empty", param_hint="--stop")
    try:
        sampling = SamplingParams(temperature, top_p, top_k, repetition_penalty, seed)
        request = CompletionRequest(
            prefix="",
            max_tokens=max_tokens,
            sampling=sampling,
            deadline_ms=deadline_ms,
            speculation=not no_speculation,
        )
    except TreelineError as error:
        raise options.bad_option(error) from None
    settings = options.make_config(names, config)
    document = read_document(file, stdin_filename)
    split = split_at_offset(document, cursor) if cursor is not None else split_at_line(document, line, column)
    request = replace(
        request,
        prefix=split.prefix,
        suffix=split.suffix,
        path=document.name,
        language=document.language,
        stop=stop_rules(split.prefix, until, stops),
        budget=settings.budget,
    )
    return _complete(settings, request, document.line_end, as_json, stats)


def _complete(settings: EngineConfig, request: CompletionRequest, line_end: str, as_json: bool, stats: bool) -> int:
    """Load, complete and print; returns the exit status."""
    engine = options.load_engine(settings)
    with Interrupt() as interrupt:
        chunks = engine.complete(request, interrupt.requested)
        if as_json:
            whole = collect(chunks, line_end)
            print_json(whole)
        else:
            whole = print_chunks(chunks, line_end)
    if stats or (not as_json and sys.stderr.isatty()):
        print_stats(whole)
    return INTERRUPTED if interrupt.requested() else DONE


def _check_cursor(line: int | None, column: int | None, cursor: int | None) -> None:
    if cursor is not None and (line is not None or column is not None):
        raise typer.BadParameter(
            "it takes the place of --line and --column: give one or the other", param_hint="--cursor"
        )
    if column is not None and line is None:
        raise typer.BadParameter("it needs --line", param_hint="--column")


def stop_rules(prefix: str, until: Until | None, strings: tuple[str, ...]) -> StopRules:
    """Turn `--until` and `--stop` into rules for a cursor behind `prefix`.

    A line that ends in a colon opens a block: the completion is then the block, not what follows it.
    """
    line = prefix.rpartition("\n")[2]
    expanded = line.expandtabs()
    indent = len(expanded) - len(expanded.lstrip())
    inside = indent + 1 if line.rstrip().endswith(":") else indent
    return StopRules(strings, end_of_line=until is Until.LINE, min_indent=inside if until is Until.BLOCK else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; every failure is one line on standard error."""
    try:
        use_utf8()
        status = app(args=arguments, prog_name="treeline", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # typer and rich turn the former into the latter, and nothing else
        abandon_stdout()  # the reader has all that it wanted
        return DONE
    except _USAGE_ERROR as error:
        return _complain(_usage_line(error), USAGE)
    except TreelineError as error:
        return _complain(str(error), FAILED)
    except OSError as error:  # a full disk, a folder that may not be written
        abandon_stdout()
        return _complain(f"the system refused: {error}", FAILED)
    except MemoryError:
        return _complain("out of memory: close other programs or choose a smaller model", FAILED)
    except Exception as error:  # noqa: BLE001 - the last resort: no user should meet a traceback
        if os.environ.get("TREELINE_DEBUG"):
            traceback.print_exc()
        detail = f"{type(error).__name__}: {error}"
        return _complain(f"internal error ({detail}): please report it with the output under TREELINE_DEBUG=1", FAILED)
    return status if isinstance(status, int) else DONE


def _complain(message: str, status: int) -> int:
    print("treeline:", " ".join(message.split()), file=sys.stderr)
    return status


def _usage_line(error: Exception) -> str:
    """Say what is wrong with the usage, and where the right one is explained."""
    complaint = cast(typer.BadParameter, error)  # what it has in common with the others is all that is used
    command = complaint.ctx.command_path if complaint.ctx is not None else "treeline"
    return f"{complaint.format_message().rstrip('.')} (see `{command} --help`)"
