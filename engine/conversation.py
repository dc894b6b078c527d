"""A conversation: its turns, the requests that continue it, what is dropped when it grows too long, its commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace

from engine.config import expanded
from engine.errors import ContextOverflowError, TreelineError
from engine.request import ChatMessage, CompletionChunk, CompletionRequest, CompletionStats, SamplingParams

Stream = Callable[[CompletionRequest], Iterator[CompletionChunk]]

NO_CHAT_MODEL = (
    "The bundled model completes Python and was not trained to converse: it goes on with the text so far. "
    "Choose a chat model with --model (`treeline models list`)."
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, whole or as far as it came."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Totals:
    """What the answers so far cost together."""

    answers: int = 0
    new_tokens: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    target_passes: int = 0
    milliseconds: float = 0.0

    def with_answer(self, stats: CompletionStats) -> Totals:
        """Return the sums with one more answer."""
        return Totals(
            self.answers + 1,
            self.new_tokens + stats.new_tokens,
            self.cached_tokens + stats.cached_tokens,
            self.prompt_tokens + stats.prompt_tokens,
            self.target_passes + stats.target_passes,
            self.milliseconds + stats.total_ms,
        )

    def line(self) -> str:
        """Say them in one line."""
        if not self.answers:
            return "no answers with statistics yet"
        return (
            f"{self.answers} answers, {self.new_tokens} tokens, {self.new_tokens / max(self.target_passes, 1):.2f} "
            f"accepted per pass, {1000 * self.new_tokens / max(self.milliseconds, 1e-9):.1f} tokens/s, "
            f"{self.cached_tokens} of {self.prompt_tokens} prompt tokens from the cache"
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said. `system` stands before everything and is never dropped."""

    system: str = ""
    exchanges: tuple[Exchange, ...] = ()
    totals: Totals = field(default_factory=Totals)

    def messages(self, question: str) -> tuple[ChatMessage, ...]:
        """Return the turns that a model sees when it is asked `question`."""
        turns = [ChatMessage("system", self.system)] if self.system else []
        for each in self.exchanges:
            turns += [ChatMessage("user", each.question), ChatMessage("assistant", each.answer)]
        return (*turns, ChatMessage("user", question))

    def with_exchange(self, question: str, answer: str, stats: CompletionStats | None) -> Conversation:
        """Return the conversation with one more exchange."""
        totals = self.totals.with_answer(stats) if stats else self.totals
        return replace(self, exchanges=(*self.exchanges, Exchange(question, answer)), totals=totals)

    def without_oldest(self) -> Conversation:
        """Return it without the older half of its exchanges, so that there is room for a while."""
        return replace(self, exchanges=self.exchanges[(len(self.exchanges) + 1) // 2 :])

    def markdown(self) -> str:
        """Return it as a page to read."""
        parts = [f"**System:** {self.system}\n"] if self.system else []
        parts += [f"## {each.question}\n\n{each.answer}\n" for each in self.exchanges]
        return "\n".join(parts)

    def json(self) -> str:
        """Return its turns as OpenAI's API takes them."""
        return json.dumps([asdict(turn) for turn in self.messages("")[:-1]], ensure_ascii=False, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Piece:
    """What is shown of an answer in progress. The last piece has `conversation`, the exchange included.

    `notice`: something to tell apart from the answer.
    """

    text: str = ""
    notice: str = ""
    conversation: Conversation | None = None
    stats: CompletionStats | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """How questions are asked. `plain`: of a model without a chat template, which goes on with the text itself."""

    max_tokens: int = 1024
    sampling: SamplingParams = field(default_factory=SamplingParams)
    plain: bool = False

    def request(self, conversation: Conversation, question: str) -> CompletionRequest:
        """Return what asks `question`."""
        messages = conversation.messages(question)
        if not self.plain:
            return CompletionRequest("", messages=messages, max_tokens=self.max_tokens, sampling=self.sampling)
        text = "".join(f"{turn.content}\n" for turn in messages)
        return CompletionRequest(text, max_tokens=self.max_tokens, sampling=self.sampling)


def ask(stream: Stream, conversation: Conversation, question: str, asking: Asking) -> Iterator[Piece]:
    """Yield the answer as it comes; its last piece carries the conversation with the answer in it.

    Where the context is full, the oldest exchanges are dropped and a notice says so. Raises TreelineError if not
    even the question fits, or the engine fails: the conversation is then what it was.
    """
    dropped = 0
    while True:
        try:
            yield from _answer(stream, conversation, question, asking, dropped)
            return
        except ContextOverflowError:
            if not conversation.exchanges:
                raise TreelineError("the message alone is longer than the model's context: shorten it") from None
            shorter = conversation.without_oldest()
            dropped += len(conversation.exchanges) - len(shorter.exchanges)
            conversation = shorter


def _answer(stream: Stream, conversation: Conversation, question: str, asking: Asking, dropped: int) -> Iterator[Piece]:
    text: list[str] = []
    last = CompletionChunk("", ())
    for chunk in stream(asking.request(conversation, question)):
        if dropped:
            yield Piece(notice=_dropped(dropped))
            dropped = 0
        text.append(chunk.text)
        last = chunk
        yield Piece(chunk.text)
    whole = conversation.with_exchange(question, "".join(text), last.stats)
    full = last.finish_reason == "length" and last.stats is not None and last.stats.new_tokens < asking.max_tokens
    if full and conversation.exchanges:
        shorter = whole.without_oldest()
        count = len(whole.exchanges) - len(shorter.exchanges)
        notice = f"The context is full, so the answer ends here. {_dropped(count)}"
        yield Piece(notice=notice, conversation=shorter, stats=last.stats)
    elif full:
        notice = "The context is full, so the answer ends here: /reset, or ask for less."
        yield Piece(notice=notice, conversation=whole, stats=last.stats)
    else:
        yield Piece(conversation=whole, stats=last.stats)


def _dropped(count: int) -> str:
    turns = "exchange was" if count == 1 else f"{count} exchanges were"
    return f"The oldest {turns} dropped to make room."


# --- commands --------------------------------------------------------------------------------------------------------

COMMANDS = {
    "/help": "list the commands",
    "/reset": "forget what was said; the system message stays",
    "/system TEXT": "set what stands before everything; without TEXT show it, with `-` remove it",
    "/save FILE": "write the conversation as Markdown, or as JSON where the name ends in .json",
    "/stats": "say what the answers cost so far",
    "/exit": "end, as Ctrl-D does",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did: the conversation after it, what to say, and whether to go on."""

    conversation: Conversation
    say: str = ""
    leave: bool = False


def command(line: str, conversation: Conversation) -> Outcome | None:
    """Do what a line that begins with one slash says; None for any other line. Raises TreelineError."""
    if not line.startswith("/") or line.startswith("//"):
        return None
    name, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    if name == "/system":
        return _system(conversation, rest)
    if name == "/save":
        return Outcome(conversation, _save(conversation, rest))
    outcomes = {
        "/help": Outcome(conversation, "\n".join(f"{each:14} {text}" for each, text in COMMANDS.items())),
        "/reset": Outcome(Conversation(conversation.system), "forgotten"),
        "/stats": Outcome(conversation, conversation.totals.line()),
        "/exit": Outcome(conversation, leave=True),
    }
    if name not in outcomes:
        raise TreelineError(f"no command {name}: see /help; begin with // to say a line that begins with a slash")
    return outcomes[name]


def spoken(line: str) -> str:
    """Return the message that a line which is no command stands for."""
    return line[1:] if line.startswith("//") else line


def _system(conversation: Conversation, text: str) -> Outcome:
    if not text:
        return Outcome(conversation, conversation.system or "no system message is set")
    return Outcome(replace(conversation, system="" if text == "-" else text), "set" if text != "-" else "removed")


def _save(conversation: Conversation, name: str) -> str:
    if not name:
        raise TreelineError("/save needs the name of a file")
    path = expanded(name)
    text = conversation.json() if path.suffix == ".json" else conversation.markdown()
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        raise TreelineError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    return f"saved to {path}"
