"""`treeline models`: which models there are, which are on this machine, and how to get, choose or remove them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from engine import cli_options as options
from engine import hub, pull
from engine.config import config_path, expanded
from engine.config_file import set_model
from engine.errors import TreelineError
from engine.models import PRESETS, REPOSITORIES, Preset, Repository, find_preset
from engine.terminal import write_json

app = typer.Typer(rich_markup_mode="rich", invoke_without_command=True)

Name = Annotated[str, typer.Argument(metavar="PRESET|HF-ID", help="A preset, or an id on the Hugging Face hub.")]


@app.callback()
def models(context: typer.Context) -> None:
    """List, download, find, choose and remove models. Everything but `pull` works without a network."""
    if context.invoked_subcommand is None:
        options.refuse_without_command(context)


@dataclass(frozen=True, slots=True)
class Stored:
    """A repository in the cache, and the bytes that it takes. `complete`: a model can be loaded from it."""

    id: str
    size: int
    complete: bool


def stored() -> list[Stored]:
    """Look through the Hugging Face cache."""
    found = sorted(pull.cache().glob("models--*--*"))
    ids = [path.name.removeprefix("models--").replace("--", "/", 1) for path in found]
    return [Stored(name, _size(path), hub.downloaded(name) is not None) for name, path in zip(ids, found, strict=True)]


def _size(path: Path) -> int:
    return sum(each.lstat().st_size for each in path.rglob("*") if each.is_file() and not each.is_symlink())


@app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the presets, and what is on this machine."""
    here = {each.id: each for each in stored()}
    if as_json:
        write_json(
            {
                "presets": [asdict(preset) for preset in PRESETS],
                "repositories": [asdict(each) for each in REPOSITORIES.values()],
                "cache": str(pull.cache()),
                "stored": [asdict(each) for each in here.values()],
            }
        )
        return
    presets = [_preset_row(preset, here) for preset in PRESETS]
    _print_table(("preset", "target", "drafter", "memory", "context", "here"), presets)
    print()
    known = [*REPOSITORIES.values(), *(Repository(name, 0, "") for name in here if name not in REPOSITORIES)]
    _print_table(("repository", "size", "on disk", "licence"), [_repository_row(each, here) for each in known])
    print(f"\nOn disk: {_spelled(sum(each.size for each in here.values()))} in {pull.cache()}")


def _preset_row(preset: Preset, here: dict[str, Stored]) -> tuple[str, ...]:
    memory = f"{preset.memory / 2**30:.0f} GiB" if preset.memory else "any"
    complete = [name in here and here[name].complete for name in preset.repositories]
    state = "yes" if all(complete) else "in part" if any(complete) else "no"
    names = [name.rpartition("/")[2] for name in (preset.target, preset.drafter)]
    return preset.name, *names, memory, str(preset.context_length or "all"), state


def _repository_row(each: Repository, here: dict[str, Stored]) -> tuple[str, ...]:
    size = _spelled(each.size, exact=each.exact) if each.size else "-"
    on_disk = here.get(each.id)
    taken = "-" if on_disk is None else _spelled(on_disk.size, exact=True) + ("" if on_disk.complete else ", part")
    return each.id, size, taken, each.licence


def _spelled(size: int, exact: bool = True) -> str:
    return f"{'' if exact else '~'}{size / 1e9:.1f} GB"


def _print_table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print columns, two spaces apart, under their heads."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (tuple(head.upper() for head in heads), *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@app.command("pull")
def pull_model(name: Name) -> None:
    """Download a preset's target and drafter, or one repository: checked by hash, resumed after an interruption.

    Pulling what is there checks it and fetches what is damaged or new.
    """
    plans = [pull.plan(repository) for repository in _repositories(name)]
    if not plans:
        print("the bundled pair is part of Treeline: there is nothing to download", file=sys.stderr)
    for planned in plans:
        known = REPOSITORIES.get(planned.repository)
        licence = f", licence: {known.licence}" if known else ""
        what = f"{planned.repository}: {_spelled(planned.size)}, {_spelled(planned.missing)} to download{licence}"
        print(what, file=sys.stderr)
        try:
            with _download_bar(planned.repository) as progress:
                where = pull.pull(planned, progress)
        except KeyboardInterrupt:
            print("what has arrived is kept: the same command goes on from there", file=sys.stderr)
            raise
        print(where)


@app.command()
def path(
    name: Name,
    drafter: Annotated[bool, typer.Option("--drafter", help="The folder of the preset's drafter instead.")] = False,
) -> None:
    """Print the folder of a model that is on this machine."""
    if not drafter:
        print(hub.resolve(name))
        return
    preset = find_preset(name)
    if preset is None:
        raise TreelineError(f"{name} is no preset, so no drafter belongs to it: see `treeline models list`")
    print(hub.resolve(preset.drafter, "drafter"))


@app.command()
def use(name: Name, config: options.ConfigFile = None) -> None:
    """Make a model that is on this machine the one of your configuration, for all editors and commands."""
    folder = hub.resolve(name)
    if find_preset(name) is None and expanded(name).is_dir():
        name = str(folder.resolve())  # every editor starts in a folder of its own
    file = config_path(os.environ, config)
    set_model(file, name)
    print(f"model = {name} in {file}")


@app.command()
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Delete a model's files, and those of its drafter unless another model that is here drafts with it.

    What was made of them to stream from is deleted, too.
    """
    if not _repositories(name):
        raise TreelineError("the bundled pair is part of Treeline and is not removed")
    here = {each.id: each for each in stored()}
    going = [each for each in _repositories(name) if each in here]
    targets = {preset.target for preset in PRESETS if preset.target in here and preset.target not in going}
    still = {preset.drafter for preset in PRESETS if preset.target in targets}
    going = [each for each in going if each not in still or each == name]
    if not going:
        raise TreelineError(f"nothing of {name} is on this machine: see `treeline models list`")
    for repository in going:
        repacked = _repacked(repository)
        what = f"{repository}, {_spelled(here[repository].size)}"
        if repacked:
            size = sum(file.stat().st_size for file in repacked)
            what += f", and its copy to stream from, {_spelled(size)} in {repacked[0].parent}"
        if not yes and not _agreed(f"Delete {what}?"):
            return 1
        for file in repacked:
            file.unlink(missing_ok=True)
        shutil.rmtree(pull.folder(repository))
        print(f"deleted {what}", file=sys.stderr)
    return 0


def _repacked(repository: str) -> list[Path]:
    """Return the files that `--memory` or `treeline repack` has made of a repository."""
    from engine.offload.store import store_files

    snapshots = sorted((pull.folder(repository) / "snapshots").glob("*"))
    return [file for snapshot in snapshots for file in store_files(snapshot)]


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise TreelineError(f"{question} Nobody is there to answer: say --yes")
    return typer.confirm(question)


def _repositories(name: str) -> tuple[str, ...]:
    """Return the ids that a name stands for: a preset's two, or itself. Raises TreelineError."""
    preset = next((preset for preset in PRESETS if preset.name == name), None)
    if preset is not None:
        return preset.repositories
    if not hub.is_id(name):
        raise TreelineError(hub.unknown(name))
    return (name,)


@contextmanager
def _download_bar(description: str) -> Generator[pull.Progress]:
    """Show bytes, speed and time left on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        tasks = {description: bar.add_task(description, total=None)}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.remove_task(task)
                tasks.clear()
                tasks[what] = bar.add_task(what, total=total, completed=done)
            bar.update(tasks[what], completed=done)

        yield show
