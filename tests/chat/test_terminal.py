"""`treeline chat` in a terminal: the real program at the end of a pseudo-terminal, typed at and read like a screen."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pexpect
import pytest

from engine.client import Client
from engine.config import EngineConfig
from engine.conversation import COMMANDS, NO_CHAT_MODEL
from engine.launch import running
from engine.request import CompletionRequest
from tests.server.serving import private_daemons

ROOT = Path(__file__).parents[2]
SECONDS = 60  # for anything that is waited for
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>78]|\r|\x07|\x08")
STATISTICS = (
    r"(\d+) tokens in \d+ target passes \(\d+\.\d+ per pass\), .* tokens/s, .* prompt of \d+ tokens, (\d+) cached"
)
PROMPT = r"\n>\s*$"  # with nothing after it yet
CTRL_C, CTRL_D, UP, ALT_ENTER = "\x03", "\x04", "\x1b[A", "\x1b\r"
ENDLESS = ["--max-tokens", "1500", "--temperature", "2", "--seed", "0"]


class Terminal:
    """A chat in a terminal of 40 lines. Whatever is waited for has a time limit, and the process ends with the test."""

    def __init__(self, options: list[str], environment: dict[str, str]) -> None:
        variables = environment | {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = pexpect.spawn(
            sys.executable,
            ["-m", "engine", "chat", *options],
            cwd=str(ROOT),
            env=variables,  # type: ignore[arg-type] - os._Environ in its annotation
            dimensions=(40, 200),
            encoding="utf-8",
            timeout=SECONDS,
        )
        self.seen = ""  # since the last match, without colours and movements of the cursor

    def until(self, pattern: str) -> re.Match[str]:
        """Read until a text appears, and forget it and all before it."""
        while not (found := re.search(pattern, self.seen)):
            try:
                raw = self.process.read_nonblocking(65536, SECONDS)
            except (pexpect.TIMEOUT, pexpect.EOF):
                raise AssertionError(f"{pattern!r} did not come, but {self.seen!r}") from None
            self.seen += ESCAPES.sub("", raw)
        self.seen = self.seen[found.end() :]
        return found

    def ready(self) -> None:
        """Wait for the first prompt."""
        self.until("Ctrl-D: end, /help")
        self.until(">")

    def say(self, line: str, answer: str = STATISTICS) -> re.Match[str]:
        """Type a line, and wait for what is expected and then for the prompt."""
        self.process.send(f"{line}\r")
        found = self.until(answer)
        self.until(">")
        return found

    def saved(self, path: Path) -> list[dict[str, str]]:
        """The turns so far."""
        self.say(f"/save {path}", "saved to ")
        return json.loads(path.read_text())

    def leave(self) -> int | None:
        """End it as a user does, and return its exit status."""
        self.process.send(CTRL_D)
        self.process.expect(pexpect.EOF)
        self.process.wait()
        return self.process.exitstatus

    def end(self) -> None:
        """End it in any case."""
        self.process.close(force=True)


Chat = Callable[..., Terminal]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, chat_pair: list[str]) -> Iterator[dict[str, str]]:
    """Where all chats of this file share a history, and a daemon that has loaded the chat checkpoint."""
    folder = tmp_path_factory.mktemp("terminal")
    config = EngineConfig(model=chat_pair[1], drafter=chat_pair[3])
    with private_daemons(folder / "run") as made:
        with Client(config, environment=made) as client:
            client.complete(CompletionRequest("x = ", max_tokens=1))
        yield made | {"XDG_STATE_HOME": str(folder / "state")}


@pytest.fixture
def chat(chat_pair: list[str], environment: dict[str, str]) -> Iterator[Chat]:
    """Starts chats with the chat checkpoint."""
    with ExitStack() as stack:

        def start(*options: str, ready: bool = True) -> Terminal:
            made = Terminal([*chat_pair, *options], environment)
            stack.callback(made.end)
            if ready:
                made.ready()
            return made

        yield start


def test_a_turn_is_answered_and_the_next_finds_it_in_the_cache(chat: Chat, tmp_path: Path) -> None:
    terminal = chat("--max-tokens", "24")
    first = terminal.say("def area(width, height):")
    assert (first[1], first[2]) == ("24", "0")
    second = terminal.say("def volume(width, height, depth):")
    assert int(second[2]) > 24
    turns = terminal.saved(tmp_path / "turns.json")
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    assert all(turn["content"] for turn in turns)
    assert terminal.say("/stats", r"(\d+) answers, (\d+) tokens, .* from the cache")[1] == "2"
    assert terminal.leave() == 0


def test_text_shows_while_it_comes_and_ctrl_c_keeps_the_turn(chat: Chat, tmp_path: Path) -> None:
    terminal = chat(*ENDLESS)
    terminal.process.send("numbers = [\r")
    terminal.until(r"numbers = \[\s*\n\s*\S+")  # the question, and beneath it the beginning of the answer
    terminal.process.send(CTRL_C)
    stopped = terminal.until(PROMPT).string
    assert not re.search(STATISTICS, stopped)  # which would follow an answer that had come to its end
    question, answer = terminal.saved(tmp_path / "turns.json")
    assert question["content"] == "numbers = ["
    assert answer["content"].strip()
    terminal.process.send("this line is given up")
    terminal.process.send(CTRL_C)  # at the prompt: a new line, as in a shell
    assert terminal.say("/reset", "forgotten")
    assert terminal.saved(tmp_path / "turns.json") == []
    assert terminal.leave() == 0


def test_commands(chat: Chat, tmp_path: Path) -> None:
    terminal = chat("--max-tokens", "4", "--system", "be kind")
    for name in COMMANDS:
        terminal.say("/help", re.escape(name))
    terminal.say("/system", "be kind")
    terminal.say("/system be brief", "set")
    terminal.process.send(f"one{ALT_ENTER}two\r")
    terminal.until(STATISTICS)
    terminal.until(">")
    terminal.say("//not a command")
    turns = terminal.saved(tmp_path / "turns.json")
    assert [turn["content"] for turn in turns if turn["role"] != "assistant"] == [
        "be brief",
        "one\ntwo",
        "/not a command",
    ]
    terminal.say("/system -", "removed")
    terminal.say("/system", "no system message is set")
    terminal.process.send("/exit\r")
    terminal.process.expect(pexpect.EOF)
    terminal.process.wait()
    assert terminal.process.exitstatus == 0


def test_mistakes_are_one_line_and_the_chat_goes_on(chat: Chat, tmp_path: Path) -> None:
    terminal = chat("--max-tokens", "4")
    terminal.say("/nope", r"treeline: no command /nope: see /help")
    terminal.say("/save", r"treeline: /save needs the name of a file")
    terminal.say(f"/save {tmp_path}", r"treeline: cannot write .*: Is a directory")
    terminal.say("x = 1 " * 3000, r"treeline: the message alone is longer than the model's context")
    terminal.process.send("\r")  # an empty line asks nothing
    terminal.say("x = ")
    assert len(terminal.saved(tmp_path / "turns.json")) == 2
    assert "Traceback" not in terminal.seen


def test_an_engine_that_dies_is_said_and_the_next_message_is_answered(
    chat: Chat, environment: dict[str, str], tmp_path: Path
) -> None:
    terminal = chat(*ENDLESS)
    terminal.process.send("numbers = [\r")
    terminal.until(r"numbers = \[\s*\n\s*\S+")
    (daemon,) = running(environment)
    os.kill(daemon.pid, signal.SIGKILL)
    terminal.until("treeline: the engine ended in the middle of an answer: ask again")
    terminal.until(">")
    assert terminal.saved(tmp_path / "turns.json") == []
    terminal.say("x = 1")


def test_the_oldest_turns_go_with_a_notice_when_the_context_is_full(chat: Chat, tmp_path: Path) -> None:
    terminal = chat("--max-tokens", "4")
    long = " ".join(f"value_{number} = {number};" for number in range(80))
    for _ in range(12):
        terminal.process.send(f"{long}\r")
        if terminal.until(rf"{STATISTICS}|dropped to make room\.")[0].startswith("dropped"):
            break
        terminal.until(">")
    else:
        raise AssertionError("the context was never full")
    terminal.until(STATISTICS)
    terminal.until(">")
    assert terminal.saved(tmp_path / "turns.json")[-2]["content"] == long


def test_what_was_said_comes_back_in_the_next_chat(chat: Chat, environment: dict[str, str], tmp_path: Path) -> None:
    first = chat("--max-tokens", "2")
    first.say("import json")
    assert first.leave() == 0
    second = chat("--max-tokens", "2")
    second.process.send(UP)
    second.until("import json")
    second.say("")
    assert second.saved(tmp_path / "turns.json")[0]["content"] == "import json"
    history = Path(environment["XDG_STATE_HOME"]) / "treeline" / "chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_the_bundled_pair_says_that_it_is_no_chat_model(environment: dict[str, str]) -> None:
    terminal = Terminal([], environment)
    try:
        terminal.until(re.escape(NO_CHAT_MODEL[:80]))
        terminal.ready()
        assert terminal.leave() == 0
    finally:
        terminal.end()
