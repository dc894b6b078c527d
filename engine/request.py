"""What a client asks of the engine and what it gets back. Standard library only: the language server imports it too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engine.errors import TreelineError

MAX_BUDGET = 512  # draft nodes of a pass: the KV caches have room for so many beyond the context

FinishReason = Literal["stop", "length", "deadline", "cancelled", "declined"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is chosen from the target's distribution.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole vocabulary; `repetition_penalty` follows CTRL
    (arXiv 1909.05858) over prompt and output; equal `seed`s give equal text, whatever the tree was.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise TreelineError naming the first parameter that is out of range."""
        _require(0 <= self.temperature <= 1000, "temperature", self.temperature, "from 0 to 1000")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0 (0 keeps all)")
        allowed = "from 0.001 to 1000 (1 is none)"
        _require(0.001 <= self.repetition_penalty <= 1000, "repetition_penalty", self.repetition_penalty, allowed)
        _require(self.seed >= 0, "seed", self.seed, "at least 0")


@dataclass(frozen=True, slots=True)
class StopRules:
    """Where a completion ends, besides the model's own end tokens.

    `strings`: the text ends before the first of them. `end_of_line`: it ends before the first line break.
    `min_indent`: it ends before the first later line that is indented by fewer columns. Blank lines do not count, and
    a line that begins with a closing bracket may have one column less: `min_indent` one beyond a line's indentation
    thus allows its block and the bracket that closes it.
    `ignore_end_tokens`: the model's own end tokens do not end it (for benchmarks).
    """

    strings: tuple[str, ...] = ()
    end_of_line: bool = False
    min_indent: int | None = None
    ignore_end_tokens: bool = False


@dataclass(frozen=True, slots=True)
class ContextFile:
    """Another file that the model should see."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation. `role`: "system", "user", "assistant", or what else the model's template knows."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Complete the text between `prefix` and `suffix` of one file.

    With `messages` it is the answer to a conversation instead, in the model's own chat template; the fields of a file
    are then not looked at. `logprobs`: report each token's log-probability and so many alternatives (None: nothing).
    `context` is ordered from the most stable file to the most volatile, so that the KV cache survives typing.
    `deadline_ms` counts from the call; at the deadline what is verified is returned. `budget` is the number of draft
    nodes per pass, to MAX_BUDGET (None: chosen from measured costs). `speculation` False decodes one token per pass.
    `branches`: report what the target says after draft tokens that it did not choose. `min_confidence`: where the
    drafter gives its best first token a smaller probability, the target is not asked and the completion is "declined".
    """

    prefix: str
    suffix: str = ""
    path: str = ""
    language: str = ""
    context: tuple[ContextFile, ...] = ()
    max_tokens: int = 64
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: StopRules = field(default_factory=StopRules)
    deadline_ms: float | None = None
    speculation: bool = True
    budget: int | None = None
    messages: tuple[ChatMessage, ...] = ()
    logprobs: int | None = None
    branches: bool = False
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        """Raise TreelineError naming the first field that is out of range."""
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(
            self.budget is None or 1 <= self.budget <= MAX_BUDGET,
            "budget",
            self.budget,
            f"from 1 to {MAX_BUDGET}, or auto",
        )
        _require(self.logprobs is None or self.logprobs >= 0, "logprobs", self.logprobs, "at least 0")
        _require(self.deadline_ms is None or self.deadline_ms > 0, "deadline_ms", self.deadline_ms, "above 0")
        _require(0 <= self.min_confidence <= 1, "min_confidence", self.min_confidence, "from 0 to 1")


@dataclass(frozen=True, slots=True)
class CompletionStats:
    """What one completion cost. Times in milliseconds; see docs/architecture.md for the exact meaning of each field."""

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    target_passes: int
    accepted_per_pass: float
    drafted_tokens: int
    prefill_ms: float
    first_token_ms: float
    total_ms: float
    tokens_per_second: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, the bytes it stands for, and its natural log-probability under the target, before any filter.

    `alternatives`: the most likely tokens at its place, best first, the chosen one among them or not. `typed`: how many
    of its first bytes repeat what stands before the cursor (token healing); they are no part of the text.
    """

    token: int
    spelling: bytes
    logprob: float
    alternatives: tuple[TokenLogprob, ...] = ()
    typed: int = 0


@dataclass(frozen=True, slots=True)
class Branch:
    """Another way that a completion could have gone: what the target says after a token that it did not choose.

    `text` takes the place of the completion's text from character `offset` on. Its first token is a draft's, `logprob`
    the target's natural log-probability of it; what follows it is the target's own choice.
    """

    offset: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class CompletionChunk:
    """A piece of verified text; an empty one says that a part of a long prompt was read.

    The last chunk of a completion carries `finish_reason` and `stats`. `logprobs`: one per token, if asked for.
    `branches`: those that leave the completion in this chunk, the likeliest first, if asked for.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason | None = None
    stats: CompletionStats | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    branches: tuple[Branch, ...] = ()


def _require(good: bool, name: str, value: object, allowed: str) -> None:
    if not good:
        raise TreelineError(f"{name} is {value}: it must be {allowed}")
