"""`treeline complete`, without the library that parses command lines: importing that takes longer than completing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.cli_engine import make_config, open_engine
from engine.cli_exit import DONE, INTERRUPTED, UsageError, guarded, of_field, option_name
from engine.config import EngineConfig
from engine.document import read_document, split_at_line, split_at_offset
from engine.errors import TreelineError
from engine.request import CompletionRequest, SamplingParams, StopRules
from engine.terminal import Interrupt, collect, print_chunks, print_json, print_stats

UNTIL = ("line", "block")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What `treeline complete` was told. `settings`: options by the name of the setting that they override."""

    file: str
    line: int | None = None
    column: int | None = None
    cursor: int | None = None
    stdin_filename: str = ""
    as_json: bool = False
    stats: bool = False
    max_tokens: int = 64
    deadline_ms: float | None = None
    until: str | None = None
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    no_speculation: bool = False
    no_daemon: bool = False
    settings: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    config: Path | None = None


def complete(given: Arguments) -> int:
    """Complete and print; return the exit status. Raises UsageError before anything is read, and TreelineError."""
    _check_cursor(given)
    request = _request(given)
    settings = make_config(given.settings, given.config)
    if given.no_daemon:
        settings = replace(settings, daemon=False)
    document = read_document(given.file, given.stdin_filename)
    if given.cursor is not None:
        split = split_at_offset(document, given.cursor)
    else:
        split = split_at_line(document, given.line, given.column)
    request = replace(
        request,
        prefix=split.prefix,
        suffix=split.suffix,
        path=document.name,
        language=document.language,
        stop=stop_rules(split.prefix, given.until, given.stop),
        budget=settings.budget,
    )
    return _print(settings, request, document.line_end, given)


def _print(settings: EngineConfig, request: CompletionRequest, line_end: str, given: Arguments) -> int:
    engine = open_engine(settings)
    with Interrupt(engine.cancel) as interrupt:
        chunks = engine.stream(request)
        if given.as_json:
            whole = collect(chunks, line_end)
            print_json(whole)
        else:
            whole = print_chunks(chunks, line_end)
    if given.stats or (not given.as_json and sys.stderr.isatty()):
        print_stats(whole)
    return INTERRUPTED if interrupt.requested() else DONE


def _check_cursor(given: Arguments) -> None:
    if given.cursor is not None and (given.line is not None or given.column is not None):
        raise UsageError("--cursor", "it takes the place of --line and --column: give one or the other")
    if given.column is not None and given.line is None:
        raise UsageError("--column", "it needs --line")


def _request(given: Arguments) -> CompletionRequest:
    if not all(given.stop):
        raise UsageError("--stop", "it must not be empty")
    try:
        sampling = SamplingParams(given.temperature, given.top_p, given.top_k, given.repetition_penalty, given.seed)
        return CompletionRequest(
            prefix="",
            max_tokens=given.max_tokens,
            sampling=sampling,
            deadline_ms=given.deadline_ms,
            speculation=not given.no_speculation,
        )
    except TreelineError as error:
        raise of_field(error) from None


def stop_rules(prefix: str, until: str | None, strings: tuple[str, ...]) -> StopRules:
    """Turn `--until` and `--stop` into rules for a cursor behind `prefix`.

    A line that ends in a colon opens a block: the completion is then the block, not what follows it.
    """
    line = prefix.rpartition("\n")[2]
    expanded = line.expandtabs()
    indent = len(expanded) - len(expanded.lstrip())
    inside = indent + 1 if line.rstrip().endswith(":") else indent
    return StopRules(strings, end_of_line=until == "line", min_indent=inside if until == "block" else None)


# --- the quick way ---------------------------------------------------------------------------------------------------


def _at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if (value := int(text)) < minimum:
            raise ValueError(text)
        return value

    return parse


def _until(text: str) -> str:
    if text not in UNTIL:
        raise ValueError(text)
    return text


_VALUES: Mapping[str, Callable[[str], object]] = {
    "line": _at_least(1),
    "column": _at_least(1),
    "cursor": _at_least(0),
    "stdin_filename": str,
    "max_tokens": _at_least(1),
    "deadline_ms": float,
    "until": _until,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "repetition_penalty": float,
    "seed": int,
    "config": Path,
}
_FLAGS = {"json": "as_json", "stats": "stats", "no_speculation": "no_speculation", "no_daemon": "no_daemon"}
_SETTINGS = ("model", "drafter", "memory", "device", "dtype", "budget", "verification", "layout", "threads")
QUICK_OPTIONS = frozenset(map(option_name, (*_VALUES, *_FLAGS, *_SETTINGS, "stop")))


def quick(words: Sequence[str]) -> int | None:
    """Run `complete` on plain arguments; None for all else (help, mistakes), which the full command line explains."""
    arguments = parse(words)
    if arguments is None:
        return None
    try:
        return guarded(lambda: complete(arguments))
    except UsageError:
        return None


def parse(words: Sequence[str]) -> Arguments | None:
    """Read arguments of `complete`; None if they are not plain: one FILE, known options, good values."""
    fields: dict[str, Any] = {}
    settings: dict[str, str | None] = {}
    files: list[str] = []
    stops: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "-" or not word.startswith("-"):
            files.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        if not word.startswith("--") or "_" in name:
            return None
        if key in _FLAGS:
            fields[_FLAGS[key]] = True
            if equals:
                return None
            continue
        text = value if equals else next(rest, None)
        if text is None:
            return None
        if key in _SETTINGS:
            settings[key] = text
        elif key == "stop":
            stops.append(text)
        elif key in _VALUES:
            try:
                fields[key] = _VALUES[key](text)
            except ValueError:
                return None
        else:
            return None
    return Arguments(files[0], stop=tuple(stops), settings=settings, **fields) if len(files) == 1 else None
