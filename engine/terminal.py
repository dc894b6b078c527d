"""What the commands write: the inserted text or JSON on standard output, progress and statistics on standard error."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from engine.request import CompletionChunk, CompletionStats

LoadProgress = Callable[[str, int, int], None]


class Interrupt:
    """Turns the first Ctrl-C inside `with` into `requested`, so that the engine stops in order; the second raises."""

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        """`then` is called at the first Ctrl-C, between any two instructions."""
        self._requested = False
        self._then = then
        self._previous: object = None

    def requested(self) -> bool:
        """Say whether Ctrl-C was pressed."""
        return self._requested

    def __enter__(self) -> Interrupt:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored in background jobs: leave it so
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)  # pyright: ignore[reportArgumentType]

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        if self._then:
            self._then()


@contextmanager
def loading_bar() -> Generator[LoadProgress | None]:
    """A bar for `progress(phase, done, total)` while a model loads; None where there is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)

        def show(phase: str, done: int, total: int) -> None:
            bar.update(task, description=phase, completed=done, total=total or None)

        yield show


@contextmanager
def counting_bar(description: str, total: int) -> Generator[Callable[[str], None]]:
    """A bar that advances by one at each call and shows the call's text. Silent where there is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda text: bar.update(task, advance=1, description=text)


def use_utf8() -> None:
    """Write UTF-8 and untranslated line ends to standard output, unless a terminal says otherwise."""
    stdout = sys.stdout
    reconfigure = getattr(stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding=None if stdout.isatty() else "utf-8", errors="replace", newline="\n")


def abandon_stdout() -> None:
    """Send what is still buffered for a closed pipe nowhere, so that the interpreter exits quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_chunks(chunks: Iterator[CompletionChunk], line_end: str) -> CompletionChunk:
    """Print a completion's text: as it comes on a terminal, in one piece elsewhere. Returns it as one chunk."""
    live = sys.stdout.isatty()

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    whole = collect(_shown(chunks, show) if live else chunks, line_end)
    if not live:
        show(whole.text)
    return whole


def _shown(chunks: Iterator[CompletionChunk], show: Callable[[str], None]) -> Iterator[CompletionChunk]:
    for chunk in chunks:
        show(chunk.text)
        yield chunk


def collect(chunks: Iterator[CompletionChunk], line_end: str) -> CompletionChunk:
    """Join a completion's chunks into one, with the document's line ends."""
    text: list[str] = []
    tokens: list[int] = []
    last = CompletionChunk("", ())
    for last in chunks:
        text.append(last.text)
        tokens.extend(last.tokens)
    joined = "".join(text)
    if line_end != "\n":
        joined = joined.replace("\n", line_end)
    return CompletionChunk(joined, tuple(tokens), last.finish_reason, last.stats)


def print_json(whole: CompletionChunk) -> None:
    """Print a completion as the one JSON object of the command line's contract."""
    stats = asdict(whole.stats) if whole.stats is not None else None
    answer = {
        "text": whole.text,
        "finish_reason": whole.finish_reason,
        "tokens": list(whole.tokens),
        "stats": stats,
    }
    write_json(answer)


def write_json(answer: object) -> None:
    """Print one JSON object and a line end on standard output."""
    sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_stats(whole: CompletionChunk) -> None:
    """Print one dim line of statistics on standard error."""
    if whole.stats is None:
        return
    line = stats_line(whole.stats)
    if sys.stderr.isatty():
        line = f"\x1b[2m{line}\x1b[0m"
    break_line = "" if whole.text.endswith("\n") else "\n"
    print(f"{break_line}{line}", file=sys.stderr)


def stats_line(stats: CompletionStats) -> str:
    """Say in one line what a completion cost."""
    return (
        f"{stats.new_tokens} tokens in {stats.target_passes} target passes "
        f"({stats.accepted_per_pass:.2f} per pass), {stats.tokens_per_second:.1f} tokens/s, "
        f"first after {stats.first_token_ms:.0f} ms, all in {stats.total_ms:.0f} ms; "
        f"prompt of {stats.prompt_tokens} tokens, {stats.cached_tokens} cached"
    )
