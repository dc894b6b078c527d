"""OpenAI's `/v1/completions` and `/v1/chat/completions`: what they take, and what they answer."""

from __future__ import annotations

import codecs
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from engine.request import ChatMessage, CompletionChunk, CompletionRequest, SamplingParams, StopRules, TokenLogprob
from engine.server.answers import server_sent
from engine.server.errors import ApiError

MAX_CHOICES = 16  # of one request: prompts times n
UNLIMITED = 2**31  # tokens; the context is shorter

Count = Annotated[int, Field(ge=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]


class StreamOptions(BaseModel):
    """`stream_options`."""

    include_usage: bool | None = None


class _Body(BaseModel):
    """What both endpoints take. Fields that are not listed are ignored; null is as good as absent."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.001, le=1000, allow_inf_nan=False)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def sampling(self, choice: int) -> SamplingParams:
        """Return how choice number `choice` is sampled. Without a seed every request is another draw."""
        seed = secrets.randbits(63) if self.seed is None else (self.seed + choice) % 2**64
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else max(self.top_p, 1e-9),
            top_k=self.top_k or 0,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=seed,
        )

    def stop_rules(self) -> StopRules:
        """Return where the text ends."""
        strings = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return StopRules(strings=tuple(string for string in strings if string))

    def wants_usage(self) -> bool:
        """Say whether a stream ends with what it cost."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionBody(_Body):
    """`POST /v1/completions`."""

    prompt: str | Texts
    suffix: str | None = None
    max_tokens: Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None

    def requests(self) -> list[CompletionRequest]:
        """Return one request per choice, those of the first prompt first."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        count = self.n or 1
        if len(prompts) * count > MAX_CHOICES:
            raise ApiError(400, f"{len(prompts)} prompts times n = {count}: at most {MAX_CHOICES} choices", param="n")
        return [
            CompletionRequest(
                prefix=prompt,
                suffix=self.suffix or "",
                max_tokens=self.max_tokens or 16,
                sampling=self.sampling(choice),
                stop=self.stop_rules(),
                logprobs=self.logprobs,
            )
            for prompt in prompts
            for choice in range(count)
        ]


class TextPart(BaseModel):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn."""

    role: str
    content: str | list[TextPart] | None = None

    def message(self) -> ChatMessage:
        """Return it with its parts joined."""
        if isinstance(self.content, list):
            return ChatMessage(self.role, "".join(part.text for part in self.content))
        return ChatMessage(self.role, self.content or "")


class ChatBody(_Body):
    """`POST /v1/chat/completions`. `n_predict` is llama.cpp's name for `max_tokens`, and 0 only fills the cache."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n_predict: Annotated[int, Field(ge=-1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def warming(self) -> bool:
        """Say whether nothing but the cache is wanted."""
        return self.n_predict == 0 and self.max_tokens is None and self.max_completion_tokens is None

    def requests(self) -> list[CompletionRequest]:
        """Return one request per choice."""
        named = self.max_completion_tokens or self.max_tokens or self.n_predict
        most = 1 if self.warming() else named if named and named > 0 else UNLIMITED
        return [
            CompletionRequest(
                prefix="",
                messages=tuple(message.message() for message in self.messages),
                max_tokens=most,
                sampling=self.sampling(choice),
                stop=self.stop_rules(),
                logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            )
            for choice in range(self.n or 1)
        ]


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the answer to one request.

    `per_prompt`: choices that share a prompt, which `usage` counts once. `silent`: only the cache was to be filled.
    """

    chat: bool
    model: str
    usage: bool
    per_prompt: int
    silent: bool
    id: str
    created: int

    @classmethod
    def of(cls, body: CompletionBody | ChatBody, model: str) -> Writer:
        """Start an answer to `body` by `model`."""
        chat = isinstance(body, ChatBody)
        prefix = "chatcmpl" if chat else "cmpl"
        name = f"{prefix}-{secrets.token_hex(12)}"
        silent = isinstance(body, ChatBody) and body.warming()
        return cls(chat, model, body.wants_usage(), body.n or 1, silent, name, int(time.time()))

    def whole(self, choices: Sequence[Sequence[CompletionChunk]]) -> dict[str, Any]:
        """Return the answer in one piece; `choices` are the chunks of each."""
        kind = "chat.completion" if self.chat else "text_completion"
        listed = [self._choice(index, [*map(self._told, chunks)]) for index, chunks in enumerate(choices)]
        return self._head(kind) | {"choices": listed, "usage": self._usage([chunks[-1] for chunks in choices])}

    async def events(self, chunks: AsyncIterator[tuple[int, CompletionChunk]]) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events."""
        last: dict[int, CompletionChunk] = {}
        places: dict[int, _Places] = {}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        head = self._head(kind)
        if self.usage:
            head["usage"] = None
        async for index, said in chunks:
            chunk = self._told(said)
            if self.chat and index not in places:
                role: dict[str, Any] = {
                    "index": index,
                    "delta": {"role": "assistant", "content": ""},
                    "finish_reason": None,
                }
                yield server_sent(head | {"choices": [role]})
            place = places.setdefault(index, _Places())
            if chunk.finish_reason is not None:
                last[index] = chunk
            if chunk.text or chunk.logprobs or chunk.finish_reason is not None:
                yield server_sent(head | {"choices": [self._piece(index, chunk, place)]})
        if self.usage:
            ends = [last[index] for index in sorted(last)]
            head["choices"], head["usage"] = [], self._usage(ends)
            yield server_sent(head)
        yield b"data: [DONE]\n\n"

    def _told(self, chunk: CompletionChunk) -> CompletionChunk:
        return replace(chunk, text="", logprobs=()) if self.silent else chunk

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, chunks: Sequence[CompletionChunk]) -> dict[str, Any]:
        text = "".join(chunk.text for chunk in chunks)
        logprobs = self._logprobs([each for chunk in chunks for each in chunk.logprobs], _Places())
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason(chunks[-1])}

    def _piece(self, index: int, chunk: CompletionChunk, place: _Places) -> dict[str, Any]:
        content = {"delta": {"content": chunk.text} if chunk.text else {}} if self.chat else {"text": chunk.text}
        logprobs = self._logprobs(chunk.logprobs, place)
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason(chunk)}

    def _usage(self, ends: Sequence[CompletionChunk]) -> dict[str, Any]:
        stats = [end.stats for end in ends]
        prompts = [each for each in stats[:: self.per_prompt] if each]
        prompt = sum(each.prompt_tokens for each in prompts)
        completion = sum(each.new_tokens for each in stats if each)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(each.cached_tokens for each in prompts)},
        }

    def _logprobs(self, tokens: Sequence[TokenLogprob], place: _Places) -> dict[str, Any] | None:
        if not tokens:
            return None
        return {"content": [_chat_logprob(token) for token in tokens]} if self.chat else _text_logprobs(tokens, place)


def finish_reason(chunk: CompletionChunk) -> str | None:
    """Return OpenAI's word for how a text ended: what was cut short, by a deadline too, is "length"."""
    return {None: None, "stop": "stop"}.get(chunk.finish_reason, "length")


def _spelled(token: TokenLogprob) -> str:
    return token.spelling.decode("utf-8", "replace")


def _chat_logprob(token: TokenLogprob) -> dict[str, Any]:
    entries = [
        {"token": _spelled(each), "logprob": each.logprob, "bytes": list(each.spelling)}
        for each in (token, *token.alternatives)
    ]
    return entries[0] | {"top_logprobs": entries[1:]}


def _text_logprobs(tokens: Sequence[TokenLogprob], place: _Places) -> dict[str, Any]:
    return {
        "tokens": [_key(token) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_rivals(token) for token in tokens],
        "text_offset": [place.next(token) for token in tokens],
    }


def _rivals(token: TokenLogprob) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in token.alternatives:
        found.setdefault(_key(each), each.logprob)  # of several that spell the same, the likeliest
    return found


def _key(token: TokenLogprob) -> str:
    r"""Spell a token so that it can be told from others: parts of a character as OpenAI does, `bytes:\xf0\x9f`."""
    try:
        return token.spelling.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.spelling)


class _Places:
    """Where tokens begin in the text that they make, in characters: within a character, where that begins."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def next(self, token: TokenLogprob) -> int:
        """Return where the next token begins."""
        begin = self._length
        self._length += len(self._decoder.decode(token.spelling[token.typed :]))
        return begin
