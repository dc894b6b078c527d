"""Options that several commands share, and the configuration that they make."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from engine import cli_engine
from engine.cli_exit import UsageError
from engine.config import EngineConfig
from engine.models import PRESETS

_MODELS = "Models and speed"
_SAMPLING = "Sampling"

Model = Annotated[
    str | None,
    typer.Option(
        metavar="PRESET|DIR|HF-ID",
        rich_help_panel=_MODELS,
        help=f"The target: {', '.join(preset.name for preset in PRESETS)}, a checkpoint directory, or a Hugging Face "
        "id that is in the local cache. Default: bundled.",
    ),
]
Drafter = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|HF-ID|none",
        rich_help_panel=_MODELS,
        help="The model that drafts; it must share the target's tokenizer. Default: the preset's own. "
        "'none' drafts from the text alone.",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        rich_help_panel=_MODELS,
        help="Most that the process may take: 8GiB, 12GB, 800M. AWQ targets that need more are streamed from disk.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="cpu|cuda", rich_help_panel=_MODELS, help="Where to compute.")
]
DTypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="TYPE",
        rich_help_panel=_MODELS,
        help="float32, float16 or bfloat16; float32 computes with exact weights. Default: the fastest.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N",
        rich_help_panel=_MODELS,
        help="Draft nodes per target pass. 'auto', the default, weighs measured costs. "
        "The text is the same at any value.",
    ),
]
VerificationOption = Annotated[
    str | None,
    typer.Option(
        "--verification",
        metavar="keyed|sequoia",
        rich_help_panel=_MODELS,
        help="How drafts are checked above temperature 0. 'keyed', the default: the same text as without speculation. "
        "'sequoia': the same distribution.",
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=_MODELS, help="Prompt layout, if not the one the tokenizer suggests."),
]
Threads = Annotated[
    str | None, typer.Option(metavar="N", rich_help_panel=_MODELS, help="CPU threads. Default: all cores.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        rich_help_panel=_MODELS,
        help="Settings file in place of ~/.config/treeline/config.toml.",
    ),
]

Temperature = Annotated[
    float, typer.Option(metavar="T", rich_help_panel=_SAMPLING, help="0 always takes the most likely token.")
]
TopP = Annotated[
    float,
    typer.Option(metavar="P", rich_help_panel=_SAMPLING, help="Keep the most likely tokens of this total probability."),
]
TopK = Annotated[
    int, typer.Option(metavar="K", rich_help_panel=_SAMPLING, help="Keep the K most likely tokens; 0 keeps all.")
]
Seed = Annotated[int, typer.Option(metavar="S", rich_help_panel=_SAMPLING, help="The same seed gives the same text.")]
RepetitionPenalty = Annotated[
    float,
    typer.Option(metavar="R", rich_help_panel=_SAMPLING, help="Above 1, tokens that occurred become less likely."),
]


def make_config(options: Mapping[str, str | None], file: Path | None) -> EngineConfig:
    """Put the options that were given over the environment and the settings file.

    Raises typer.BadParameter for a bad option and TreelineError for a bad file or variable.
    """
    try:
        return cli_engine.make_config(options, file)
    except UsageError as error:
        raise bad_option(error) from None


def refuse_without_command(context: typer.Context) -> None:
    """Show a group's help on standard error and exit as for wrong usage."""
    with redirect_stdout(sys.stderr):
        typer.echo(context.get_help())  # rich prints it at once, plain click returns it
    raise typer.Exit(2)


def bad_option(error: UsageError) -> typer.BadParameter:
    """Say it as the command line does."""
    return typer.BadParameter(error.complaint, param_hint=error.option)
