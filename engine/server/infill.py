"""llama.cpp's `/infill`, as far as llama.vim and llama.vscode use it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import BaseModel, Field

from engine.request import CompletionChunk, CompletionRequest, ContextFile, SamplingParams, StopRules
from engine.server.answers import server_sent

UNLIMITED = 2**31  # tokens; the context is shorter

Milliseconds = Annotated[float, Field(allow_inf_nan=False)]


class ExtraFile(BaseModel):
    """A piece of another file."""

    text: str
    filename: str | None = None


class InfillBody(BaseModel):
    """`POST /infill`. Fields that are not listed are ignored; null is as good as absent.

    `prompt` stands between `input_prefix` and the cursor. `n_predict` -1 is no limit, 0 only fills the cache.
    `t_max_predict_ms`: the text ends so long after its first token, once it has a whole line. `n_indent`: it ends
    before a line that is indented by fewer columns. `temperature` is 0 unless given: the same place, the same text.
    """

    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: list[ExtraFile] | None = None
    prompt: str | None = None
    n_predict: Annotated[int, Field(ge=-1)] | None = None
    n_indent: Annotated[int, Field(ge=0)] | None = None
    t_max_predict_ms: Milliseconds | None = None
    temperature: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] | None = None
    top_k: int | None = None
    top_p: Annotated[float, Field(allow_inf_nan=False)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.001, le=1000, allow_inf_nan=False)] | None = None
    seed: int | None = None
    stop: list[str] | None = None
    stream: bool | None = None
    response_fields: list[str] | None = None

    def warming(self) -> bool:
        """Say whether nothing but the cache is wanted."""
        return self.n_predict == 0

    def request(self) -> CompletionRequest:
        """Return it as the engine's."""
        wanted = 1 if self.warming() else self.n_predict or UNLIMITED
        return CompletionRequest(
            prefix=(self.input_prefix or "") + (self.prompt or ""),
            suffix=self.input_suffix or "",
            context=tuple(ContextFile(extra.filename or "", extra.text) for extra in self.input_extra or ()),
            max_tokens=UNLIMITED if wanted < 0 else wanted,
            sampling=SamplingParams(
                temperature=self.temperature or 0.0,
                top_k=max(self.top_k or 0, 0),
                top_p=self.top_p if self.top_p and 0 < self.top_p < 1 else 1.0,
                repetition_penalty=self.repeat_penalty or 1.0,
                seed=(self.seed or 0) % 2**64,
            ),
            stop=StopRules(strings=tuple(filter(None, self.stop or ())), min_indent=self.n_indent or None),
        )

    def time_limit(self) -> Callable[[CompletionChunk], bool]:
        """Return what says, chunk by chunk, whether `t_max_predict_ms` is over. As llama.cpp's, it waits for a line."""
        limit = self.t_max_predict_ms
        first: float | None = None
        line = False

        def over(chunk: CompletionChunk) -> bool:
            nonlocal first, line
            if limit is None or limit <= 0 or not chunk.tokens:
                return False
            now = 1000 * time.perf_counter()
            first = now if first is None else first
            line = line or "\n" in chunk.text
            return line and now - first > limit

        return over

    def answer(self, chunks: Sequence[CompletionChunk], context: int, model: str) -> dict[str, Any]:
        """Return the answer, or of it what `response_fields` names ("timings/prompt_n" reaches into an object)."""
        text = "" if self.warming() else "".join(chunk.text for chunk in chunks)
        answer = {"content": text, "stop": True, "model": model, **_ending(chunks[-1], context)}
        return answer if self.response_fields is None else _picked(answer, self.response_fields)

    async def events(
        self, chunks: AsyncIterator[tuple[int, CompletionChunk]], context: int, model: str
    ) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events."""
        async for _, chunk in chunks:
            if chunk.finish_reason is not None:
                yield server_sent(self.answer([chunk], context, model))
            elif chunk.text and not self.warming():
                yield server_sent({"content": chunk.text, "stop": False})


def _ending(last: CompletionChunk, context: int) -> dict[str, Any]:
    stats = last.stats
    prompt = stats.prompt_tokens if stats else 0
    new = stats.new_tokens if stats else 0
    read = prompt - stats.cached_tokens if stats else 0
    prompt_ms = stats.prefill_ms if stats else 0.0
    new_ms = stats.total_ms - stats.prefill_ms if stats else 0.0
    return {
        "tokens_predicted": new,
        "tokens_evaluated": prompt,
        "tokens_cached": prompt + new,
        "truncated": False,
        "stop_type": {"stop": "eos", "length": "limit", "cancelled": "limit"}.get(last.finish_reason or "", "none"),
        "generation_settings": {"n_ctx": context},
        "timings": {
            "cache_n": prompt - read,
            **_timings("prompt", read, prompt_ms),
            **_timings("predicted", new, new_ms),
        },
    }


def _timings(name: str, count: int, milliseconds: float) -> dict[str, Any]:
    return {
        f"{name}_n": count,
        f"{name}_ms": milliseconds,
        f"{name}_per_token_ms": milliseconds / count if count else 0.0,
        f"{name}_per_second": 1000 * count / milliseconds if milliseconds else 0.0,
    }


def _picked(answer: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    picked: dict[str, Any] = {}
    for field in fields:
        value: Any = answer
        for part in field.split("/"):
            value = cast("Mapping[str, Any]", value).get(part) if isinstance(value, Mapping) else None
        if value is not None:
            picked[field] = value
    return picked
