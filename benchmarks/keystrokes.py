"""What a keystroke costs: a line typed one character at a time, a completion after every character.

    python -m benchmarks.keystrokes --file engine/engine.py

At several places of a real file a line is taken out and its first 40 characters are typed again. Two engines answer
every keystroke in turn: one stays warm and reuses what it remembers of the keystroke before, the other forgets
everything first. Their tokens must be the same. `recomputed` is prompt_tokens - cached_tokens; `changed` is how many
tokens at the end of the prompt differ from the keystroke before (at least one: the last token is always computed), so
recomputed <= changed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from benchmarks.common import Spread, environment, print_environment, print_json, print_table, spread
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.request import CompletionRequest

TYPED = 40  # characters of a line


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion. Milliseconds from the call: to the first chunk with tokens, and to the last chunk."""

    tokens: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    first_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Keystroke:
    """Both engines' answers after one character; `changed`: see the module."""

    changed: int
    warm: Answer
    cold: Answer


@dataclass(frozen=True, slots=True)
class Result:
    """Spreads over all keystrokes; times in milliseconds; `speedup`: cold medians over warm medians."""

    keystrokes: int
    differing: int
    prompt_tokens: Spread
    recomputed: Spread
    changed: Spread
    recomputed_beyond_changed: int
    new_tokens: Spread
    warm_total_ms: Spread
    warm_first_ms: Spread
    cold_total_ms: Spread
    cold_first_ms: Spread
    speedup_total: float
    speedup_first: float


def places(text: str, count: int) -> list[int]:
    """Numbers of lines, evenly spread, that have at least TYPED characters behind their indentation."""
    lines = text.split("\n")
    long = [number for number, line in enumerate(lines) if len(line.strip()) >= TYPED]
    if len(long) < count:
        raise TreelineError(
            f"the file has {len(long)} lines of {TYPED} characters, {count} are needed: give a longer file"
        )
    return [long[(2 * place + 1) * len(long) // (2 * count)] for place in range(count)]


def requests(text: str, line: int, path: str, max_tokens: int) -> list[CompletionRequest]:
    """The empty line first, then one request per typed character."""
    lines = text.split("\n")
    body = lines[line].lstrip()
    before = "\n".join([*lines[:line], lines[line][: len(lines[line]) - len(body)]])
    after = "\n".join(["", *lines[line + 1 :]])
    return [
        CompletionRequest(before + body[:typed], after, path=path, language="python", max_tokens=max_tokens)
        for typed in range(TYPED + 1)
    ]


def answer(engine: Engine, request: CompletionRequest) -> Answer:
    """Complete and take the times."""
    began = time.perf_counter()
    first = None
    tokens: list[int] = []
    stats = None
    for chunk in engine.complete(request):
        tokens += chunk.tokens
        stats = chunk.stats
        if first is None and tokens:
            first = time.perf_counter() - began
    total = time.perf_counter() - began
    if stats is None:
        raise RuntimeError("the last chunk carries no statistics")
    return Answer(tuple(tokens), stats.prompt_tokens, stats.cached_tokens, 1000 * (first or total), 1000 * total)


def type_line(warm: Engine, cold: Engine, line: Sequence[CompletionRequest]) -> list[Keystroke]:
    """Type one line; the request before the first character warms up and is not counted."""
    for _ in warm.complete(line[0]):
        pass
    before = warm.prompt(line[0]).ids
    strokes: list[Keystroke] = []
    for number, request in enumerate(line[1:]):
        ids = warm.prompt(request).ids
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, ids, strict=False)))
        before = ids
        cold.reset()
        if number % 2:
            ours, theirs = answer(warm, request), answer(cold, request)
        else:
            theirs, ours = answer(cold, request), answer(warm, request)
        strokes.append(Keystroke(max(1, len(ids) - same), ours, theirs))
    return strokes


def summarise(strokes: Sequence[Keystroke]) -> Result:
    """Spreads over all keystrokes."""
    recomputed = [stroke.warm.prompt_tokens - stroke.warm.cached_tokens for stroke in strokes]
    warm_total, cold_total = (spread([s.warm.total_ms for s in strokes]), spread([s.cold.total_ms for s in strokes]))
    warm_first, cold_first = (spread([s.warm.first_ms for s in strokes]), spread([s.cold.first_ms for s in strokes]))
    return Result(
        keystrokes=len(strokes),
        differing=sum(stroke.warm.tokens != stroke.cold.tokens for stroke in strokes),
        prompt_tokens=spread([stroke.warm.prompt_tokens for stroke in strokes]),
        recomputed=spread(recomputed),
        changed=spread([stroke.changed for stroke in strokes]),
        recomputed_beyond_changed=sum(n > stroke.changed for n, stroke in zip(recomputed, strokes, strict=True)),
        new_tokens=spread([len(stroke.warm.tokens) for stroke in strokes]),
        warm_total_ms=warm_total,
        warm_first_ms=warm_first,
        cold_total_ms=cold_total,
        cold_first_ms=cold_first,
        speedup_total=cold_total.median / warm_total.median,
        speedup_first=cold_first.median / warm_first.median,
    )


def print_result(result: Result) -> None:
    """Tables for people."""
    tokens = {"prompt": result.prompt_tokens, "recomputed": result.recomputed, "changed": result.changed}
    times = {
        "completion": result.warm_total_ms,
        "to the first verified token": result.warm_first_ms,
        "completion, no reuse": result.cold_total_ms,
        "to the first verified token, no reuse": result.cold_first_ms,
    }
    for title, digits, listed in (
        ("tokens per keystroke", 0, {**tokens, "new": result.new_tokens}),
        ("milliseconds", 1, times),
    ):
        rows = [(name, *(f"{x:.{digits}f}" for x in (row.median, row.p95, row.max))) for name, row in listed.items()]
        print_table((title, "median", "p95", "max"), rows)
        print()
    print(
        f"{result.keystrokes} keystrokes; reuse makes the median completion {result.speedup_total:.1f}x as fast, the"
        f" first token {result.speedup_first:.1f}x; {result.recomputed_beyond_changed} keystrokes recomputed more than"
        f" changed; {result.differing} gave other tokens than without reuse"
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keystrokes", description=summary, epilog=rest)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--file", type=Path, default=Path("engine/engine.py"), help="a Python file (default: engine/engine.py)")
    add("--places", type=int, default=5, help=f"lines to type, {TYPED} keystrokes each (default: 5)")
    add("--max-tokens", type=int, default=24, help="tokens of a completion, at most (default: 24)")
    add("--model", default="bundled", help="preset or checkpoint folder (default: the bundled pair)")
    add("--drafter", default="auto", help='checkpoint folder, "auto" or "none"')
    add("--dtype", default="auto", help="as for `treeline complete`")
    add("--threads", type=int, help="CPU threads (default: all)")
    add("--json", action="store_true", help="print one JSON object instead of tables")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    given = parse_arguments()
    config = EngineConfig(model=given.model, drafter=given.drafter, dtype=given.dtype, threads=given.threads)
    try:
        text = given.file.read_text(encoding="utf-8")
        lines = [requests(text, line, str(given.file), given.max_tokens) for line in places(text, given.places)]
        warm, cold = Engine.load(config), Engine.load(config)
        answer(cold, lines[0][0])  # what only the first request of a process pays is not a keystroke's cost
        strokes = [stroke for line in lines for stroke in type_line(warm, cold, line)]
    except (TreelineError, OSError) as error:
        sys.exit(f"error: {error}")
    result, where = summarise(strokes), environment()
    if given.json:
        print_json({"result": result, "file": str(given.file), "keystrokes": strokes, "environment": where})
        return
    print_result(result)
    print_environment(where)


if __name__ == "__main__":
    main()
