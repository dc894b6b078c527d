"""Turns, what is dropped when the context is full, and commands, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.conversation import COMMANDS, Asking, Conversation, Exchange, Piece, ask, command, spoken
from engine.errors import ContextOverflowError, TreelineError
from engine.request import ChatMessage, CompletionChunk, CompletionRequest, CompletionStats, FinishReason

ASKING = Asking(max_tokens=10)


def stats(new_tokens: int) -> CompletionStats:
    return CompletionStats(8, 4, new_tokens, 2, new_tokens / 2, 0, 1.0, 1.0, 100.0, 10.0, 1)


class Model:
    """Holds so many characters of a conversation, refuses more, and answers "yes"."""

    def __init__(self, window: int = 1000, reason: FinishReason = "stop") -> None:
        self.window = window
        self.reason: FinishReason = reason
        self.asked: list[CompletionRequest] = []

    def stream(self, request: CompletionRequest) -> Iterator[CompletionChunk]:
        if sum(len(turn.content) for turn in request.messages) > self.window:
            raise ContextOverflowError("too long")
        self.asked.append(request)
        yield CompletionChunk("y", (1,))
        yield CompletionChunk("es", (2,))
        yield CompletionChunk("", (), self.reason, stats(2))


def asked(model: Model, conversation: Conversation, question: str) -> tuple[str, str, Conversation]:
    """Text, notices and conversation after a question."""
    pieces: list[Piece] = list(ask(model.stream, conversation, question, ASKING))
    after = pieces[-1].conversation
    assert after is not None
    return "".join(each.text for each in pieces), " ".join(each.notice for each in pieces if each.notice), after


def talk(count: int, system: str = "") -> Conversation:
    return Conversation(system, tuple(Exchange(f"question {i}", "yes") for i in range(count)))


def test_every_question_is_asked_with_all_that_was_said() -> None:
    model = Model()
    conversation = Conversation("be kind")
    for question in ("one", "two"):
        text, notice, conversation = asked(model, conversation, question)
        assert (text, notice) == ("yes", "")
    said = [(turn.role, turn.content) for turn in model.asked[-1].messages]
    assert said == [("system", "be kind"), ("user", "one"), ("assistant", "yes"), ("user", "two")]
    assert model.asked[-1].max_tokens == 10


def test_a_model_without_a_template_goes_on_with_the_text() -> None:
    model = Model()
    list(ask(model.stream, Conversation("s", (Exchange("a = 1", "b = 2"),)), "c", Asking(plain=True)))
    assert model.asked[-1].messages == ()
    assert model.asked[-1].prefix == "s\na = 1\nb = 2\nc\n"


def test_the_oldest_go_when_the_context_is_full_and_the_system_message_stays() -> None:
    model = Model(window=60)
    _, notice, after = asked(model, talk(8, system="be kind"), "now")
    assert notice == "The oldest 6 exchanges were dropped to make room."
    assert [each.question for each in after.exchanges] == ["question 6", "question 7", "now"]
    assert model.asked[-1].messages[0] == ChatMessage("system", "be kind")


def test_a_question_that_never_fits_is_refused() -> None:
    with pytest.raises(TreelineError, match="the message alone is longer than the model's context"):
        list(ask(Model(window=10).stream, talk(3), "x" * 11, ASKING))


def test_an_answer_that_fills_the_context_says_so_and_makes_room() -> None:
    _, notice, after = asked(Model(reason="length"), talk(3), "now")
    assert notice == "The context is full, so the answer ends here. The oldest 2 exchanges were dropped to make room."
    assert [each.question for each in after.exchanges] == ["question 2", "now"]
    _, notice, after = asked(Model(reason="length"), talk(0), "now")
    assert "/reset" in notice
    assert len(after.exchanges) == 1


def test_a_failure_leaves_the_conversation_as_it_was() -> None:
    def fail(_: CompletionRequest) -> Iterator[CompletionChunk]:
        yield CompletionChunk("y", (1,))
        raise TreelineError("the engine ended")

    conversation = talk(1)
    with pytest.raises(TreelineError, match="the engine ended"):
        list(ask(fail, conversation, "now", ASKING))
    assert conversation == talk(1)


def test_a_stopped_answer_is_kept_as_far_as_it_came() -> None:
    _, _, after = asked(Model(reason="cancelled"), talk(0), "now")
    assert after.exchanges == (Exchange("now", "yes"),)


def test_totals_add_up() -> None:
    model, conversation = Model(), Conversation()
    assert conversation.totals.line() == "no answers with statistics yet"
    for _ in range(3):
        _, _, conversation = asked(model, conversation, "x")
    line = "3 answers, 6 tokens, 1.00 accepted per pass, 20.0 tokens/s, 12 of 24 prompt tokens from the cache"
    assert conversation.totals.line() == line


# --- commands --------------------------------------------------------------------------------------------------------


def test_commands_do_what_help_says(tmp_path: Path) -> None:
    conversation = talk(2, system="be kind")

    def say(line: str) -> str:
        outcome = command(line, conversation)
        assert outcome is not None
        assert outcome.conversation == conversation
        return outcome.say

    assert [line.split()[0] for line in say("/help").splitlines()] == [name.split()[0] for name in COMMANDS]
    assert say("/system") == "be kind"
    assert say("/stats") == conversation.totals.line()
    page, turns = tmp_path / "talk.md", tmp_path / "talk.json"
    assert say(f"/save {page}") == f"saved to {page}"
    assert page.read_text() == "**System:** be kind\n\n## question 0\n\nyes\n\n## question 1\n\nyes\n"
    say(f"/save {turns}")
    assert [turn["role"] for turn in json.loads(turns.read_text())] == ["system", *["user", "assistant"] * 2]


def test_commands_that_change_the_conversation() -> None:
    after = {line: command(line, talk(2, system="be kind")) for line in ("/reset", "/system x y", "/system -", "/exit")}
    found = {
        line: each and (each.conversation.system, len(each.conversation.exchanges)) for line, each in after.items()
    }
    assert found == {"/reset": ("be kind", 0), "/system x y": ("x y", 2), "/system -": ("", 2), "/exit": ("be kind", 2)}
    assert [line for line, each in after.items() if each and each.leave] == ["/exit"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/nope", "no command /nope"),
        ("/save", "needs the name"),
        ("/save /no/such/place", "cannot write /no/such/place"),
        ("/save ~nobody-of-that-name/x.md", "there is no such user"),
        ("/save a\0b", "cannot write"),
    ],
)
def test_commands_that_cannot_be_done(line: str, complaint: str) -> None:
    with pytest.raises(TreelineError, match=complaint):
        command(line, talk(1))


@pytest.mark.parametrize(("line", "message"), [("hello", "hello"), ("//etc", "/etc"), ("", "")])
def test_all_other_lines_are_messages(line: str, message: str) -> None:
    assert command(line, talk(1)) is None
    assert spoken(line) == message
