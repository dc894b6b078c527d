"""`treeline bench decode`: the same completions with and without speculation, in one process, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, cast

from engine.errors import TreelineError
from engine.request import CompletionChunk, CompletionRequest, CompletionStats, FinishReason, SamplingParams, StopRules


@dataclass(frozen=True, slots=True)
class Case:
    """One place in one file: the text around the cursor and the text that was there."""

    id: str
    language: str
    path: str
    prefix: str
    suffix: str
    expected: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """How every case is completed.

    `fresh`: nothing is in the cache, so that times include reading the prompt. `fixed_length`: the model's end tokens
    end nothing, so that every case has `max_tokens` tokens.
    """

    max_tokens: int
    sampling: SamplingParams
    budget: int | None = None
    fresh: bool = False
    fixed_length: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One completion, timed from the call to its last chunk."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason | None
    stats: CompletionStats
    milliseconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens over wall time."""
        return 1000 * len(self.tokens) / self.milliseconds


@dataclass(frozen=True, slots=True)
class Result:
    """Both completions of a case."""

    case: Case
    speculative: Outcome
    autoregressive: Outcome

    @property
    def mismatch(self) -> int | None:
        """The first position at which the tokens differ, or None."""
        ours, theirs = self.speculative.tokens, self.autoregressive.tokens
        if ours == theirs:
            return None
        pairs = zip(ours, theirs, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))

    @property
    def line_matches(self) -> bool:
        """Whether the first line is the expected one, up to trailing white space."""
        return first_line(self.speculative.text) == first_line(self.case.expected)


class Completer(Protocol):
    """What the benchmark needs of an engine."""

    def complete(self, request: CompletionRequest, cancelled: Callable[[], bool]) -> Iterator[CompletionChunk]:
        """Stream a completion; see engine.engine.Engine."""
        ...

    def forget(self) -> None:
        """Empty the caches, so that the next request reads its whole prompt."""
        ...

    def logit_gap(self, request: CompletionRequest, tokens: Sequence[int]) -> float:
        """Return the difference of the target's two best logits after the prompt and `tokens`."""
        ...


def read_cases(path: Path, limit: int | None = None) -> list[Case]:
    """Read a JSON Lines file of cases. Raises TreelineError naming the file, the line and the field."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise TreelineError(f"cannot read the cases {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TreelineError(f"{path} is not UTF-8 (offset {error.start}): give a JSON Lines file") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    cases = [_parse_case(f"{path}:{number}", line) for number, line in numbered[:limit]]
    if not cases:
        raise TreelineError(f"{path} holds no cases: give one JSON object a line")
    return cases


def _parse_case(place: str, line: str) -> Case:
    try:
        row: object = json.loads(line)
    except json.JSONDecodeError as error:
        raise TreelineError(f"{place}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise TreelineError(f"{place}: expected an object with the fields of a case")
    values = cast("dict[str, object]", row)
    texts: dict[str, str] = {}
    for field in fields(Case):
        value = values.get(field.name, "" if field.name == "kind" else None)
        if not isinstance(value, str):
            problem = f"is {value!r}" if field.name in values else "is missing"
            raise TreelineError(f'{place}: the field "{field.name}" {problem}: expected a string')
        texts[field.name] = value
    return Case(**texts)


def run_cases(
    engine: Completer,
    cases: Sequence[Case],
    settings: BenchSettings,
    progress: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> list[Result]:
    """Complete every case in both modes, the order alternating so that drift cancels; one uncounted case warms up.

    Raises KeyboardInterrupt when `cancelled` says so.
    """
    for speculation in (True, False):
        _complete(engine, cases[0], settings, speculation, cancelled)
    results: list[Result] = []
    for number, case in enumerate(cases):
        first = number % 2 == 0
        one = _complete(engine, case, settings, first, cancelled)
        other = _complete(engine, case, settings, not first, cancelled)
        results.append(Result(case, one, other) if first else Result(case, other, one))
        progress(case.id)
    return results


def request_for(case: Case, settings: BenchSettings, speculation: bool) -> CompletionRequest:
    """Make the request that completes a case."""
    return CompletionRequest(
        prefix=case.prefix,
        suffix=case.suffix,
        path=case.path,
        language=case.language,
        max_tokens=settings.max_tokens,
        sampling=settings.sampling,
        stop=StopRules(ignore_end_tokens=settings.fixed_length),
        speculation=speculation,
        budget=settings.budget,
    )


def logit_gap(engine: Completer, result: Result, position: int, settings: BenchSettings) -> float:
    """Return how clear the target's choice was where the two outputs of a case part, as decoded one by one."""
    request = request_for(result.case, settings, speculation=False)
    return engine.logit_gap(request, result.autoregressive.tokens[:position])


def _complete(
    engine: Completer, case: Case, settings: BenchSettings, speculation: bool, cancelled: Callable[[], bool]
) -> Outcome:
    request = request_for(case, settings, speculation)
    engine.forget()  # the answer to the other mode's request, too, which would make a perfect draft
    if not settings.fresh:
        _read_prompt(engine, request, cancelled)
    began = time.perf_counter()
    chunks = list(engine.complete(request, cancelled))
    milliseconds = 1000 * (time.perf_counter() - began)
    stats = chunks[-1].stats
    if cancelled() or stats is None:
        raise KeyboardInterrupt
    tokens = tuple(token for chunk in chunks for token in chunk.tokens)
    text = "".join(chunk.text for chunk in chunks)
    return Outcome(text, tokens, chunks[-1].finish_reason, stats, milliseconds)


def _read_prompt(engine: Completer, request: CompletionRequest, cancelled: Callable[[], bool]) -> None:
    """Bring the prompt into the caches of target and drafter, so that what is timed next is decoding.

    Given up after its first pass, so that no completion is remembered; `max_tokens` stays, as prompts are cut by it.
    """
    next(engine.complete(request, cancelled))


def first_line(text: str) -> str:
    """Return a text's first line without trailing white space."""
    return text.partition("\n")[0].rstrip()
