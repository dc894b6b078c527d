"""`treeline chat`: a conversation in the terminal, in the browser, or line by line for scripts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine import cli_options as options
from engine.cli_engine import Streaming, model_name, open_engine
from engine.cli_exit import INTERRUPTED, complain, of_field
from engine.config import EngineConfig
from engine.conversation import NO_CHAT_MODEL, Asking, Conversation, Piece, ask, command, spoken
from engine.errors import TreelineError
from engine.request import SamplingParams
from engine.terminal import Interrupt, stats_line

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from rich.console import Console, RenderableType

EXAMPLES = """
[bold]Examples[/bold]

  treeline chat --model qwen2.5-coder-7b                in the terminal; /help lists the commands

  treeline chat --web --model qwen2.5-coder-7b          in the browser

  echo "What is a trie?" | treeline chat --model DIR    one line, one answer
"""


def chat(
    web: Annotated[bool, typer.Option("--web", help="Chat in the browser, on this machine alone.")] = False,
    port: Annotated[
        int | None, typer.Option(metavar="P", min=1, max=65535, help="The port for --web. Default: a free one.")
    ] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="What stands before everything.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="End an answer after N tokens.")] = 1024,
    stats: Annotated[
        bool, typer.Option("--stats", help="Print statistics on standard error, also when it is no terminal.")
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
    """Converse with a chat model.

    What was said stays in the model's cache: each turn reads only what is new.
    """
    names = {"model": model, "drafter": drafter, "memory": memory, "device": device, "dtype": dtype, "budget": budget}
    names |= {"verification": verification, "layout": layout, "threads": threads}
    try:
        sampling = SamplingParams(temperature, top_p, top_k, repetition_penalty, seed)
    except TreelineError as error:
        raise options.bad_option(of_field(error)) from None
    if port is not None and not web:
        raise typer.BadParameter("it needs --web", param_hint="--port")
    settings = options.make_config(names, config)
    asking = Asking(max_tokens, sampling, plain=settings.model == "bundled" and settings.url is None)
    conversation = Conversation(system)
    if web:
        from engine import web as page

        page.run(open_engine(settings), settings, asking, conversation, port)
        return 0
    if asking.plain:
        _say(NO_CHAT_MODEL)
    engine = open_engine(settings)
    if sys.stdin.isatty() and sys.stdout.isatty():
        return _Terminal(engine, asking, settings).run(conversation)
    return _lines(engine, asking, conversation, stats)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- without a terminal ----------------------------------------------------------------------------------------------


def _lines(engine: Streaming, asking: Asking, conversation: Conversation, stats: bool) -> int:
    """Answer standard input line by line. Raises TreelineError at the first failure."""
    reconfigure = getattr(sys.stdin, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # whatever is piped in
    for raw in sys.stdin:
        line = raw.rstrip("\n")
        outcome = command(line, conversation)
        if outcome is not None:
            conversation = outcome.conversation
            if outcome.say:
                _say(outcome.say)
            if outcome.leave:
                break
        elif line.strip():
            with Interrupt(engine.cancel) as interrupt:
                for piece in ask(engine.stream, conversation, spoken(line), asking):
                    sys.stdout.write(piece.text)
                    sys.stdout.flush()
                    conversation = _told(piece, stats) or conversation
            print(flush=True)
            if interrupt.requested():
                return INTERRUPTED
    return 0


def _told(piece: Piece, stats: bool) -> Conversation | None:
    """Print what is not the answer, and return the conversation if this was the last piece."""
    if piece.notice:
        _say(piece.notice)
    if stats and piece.stats:
        _say(stats_line(piece.stats))
    return piece.conversation


# --- in a terminal ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Terminal:
    """A prompt with a history, answers as Markdown while they come."""

    engine: Streaming
    asking: Asking
    settings: EngineConfig

    def run(self, conversation: Conversation) -> int:
        """Converse until /exit or Ctrl-D."""
        from rich.console import Console

        console = Console(highlight=False)
        console.print(model_name(self.settings), markup=False, style="bold")
        console.print("Alt-Enter: a new line, Ctrl-C: stop an answer, Ctrl-D: end, /help", style="dim")
        session = prompt_session(os.environ)
        while True:
            try:
                line = session.prompt("> ")
            except KeyboardInterrupt:
                continue  # the line is discarded, as in a shell
            except EOFError:
                return 0
            try:
                outcome = command(line, conversation)
                if outcome is None:
                    conversation = self._answer(console, conversation, line) if line.strip() else conversation
                    continue
            except TreelineError as error:
                complain(str(error), 1)
                continue
            conversation = outcome.conversation
            if outcome.say:
                console.print(outcome.say, markup=False, style="dim")
            if outcome.leave:
                return 0

    def _answer(self, console: Console, conversation: Conversation, line: str) -> Conversation:
        with Interrupt(self.engine.cancel):
            pieces = ask(self.engine.stream, conversation, spoken(line), self.asking)
            last = show(console, pieces)
        if last.stats:
            console.print(stats_line(last.stats), markup=False, style="dim")
        return last.conversation or conversation


def show(console: Console, pieces: Iterator[Piece]) -> Piece:
    """Draw an answer as Markdown: its end while it comes, all of it when it is there. Returns the last piece."""
    from rich.live import Live
    from rich.markdown import Markdown

    text, notices, last = "", list[str](), Piece()
    try:
        with Live(console=console, transient=True, refresh_per_second=12) as live:
            for last in pieces:
                text += last.text
                notices += [last.notice] if last.notice else []
                live.update(Markdown(_end_of(text, console.height - 2)))
    finally:
        shown: RenderableType = Markdown(text)
        console.print(shown)
        for notice in notices:
            console.print(notice, markup=False, style="yellow")
    return last


def _end_of(text: str, lines: int) -> str:
    """Return the last lines, with the fence of a code block that begins above them."""
    every = text.split("\n")
    hidden, shown = every[:-lines], every[-lines:]
    fences = [line for line in hidden if line.lstrip().startswith("```")]
    return "\n".join([*(fences[-1:] if len(fences) % 2 else []), *shown])


def prompt_session(environment: Mapping[str, str], **console: Any) -> PromptSession[str]:
    """Make a prompt that sends with Enter and remembers what was said. `console`: its input and output, for tests."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    keys.add("enter")(send)
    keys.add("escape", "enter")(break_line)
    path = _history_file(environment)
    history = FileHistory(str(path)) if path else InMemoryHistory()
    return PromptSession(history=history, multiline=True, key_bindings=keys, **console)


def _history_file(environment: Mapping[str, str]) -> Path | None:
    """Return the file of the history, for its owner's eyes alone; None where it cannot be written."""
    base = environment.get("XDG_STATE_HOME")
    path = (Path(base) if base else Path.home() / ".local" / "state") / "treeline" / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return None
    return path if os.access(path, os.W_OK) else None
