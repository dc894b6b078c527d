"""How often completions go in circles, what ending them there saves, and whether that ever hits good code.

    python -m benchmarks.circles --cases runs/cases.jsonl

Every case is completed greedily, to the end of its block. `circles`: completions in which the language server's rule
finds the model saying the same over and over; `first line`: so soon that nothing is left to show. `tokens not needed`
came after the rule knew. `right lines lost`: first lines that were right and are not shown. The code of the cases
themselves, in pieces of 20 lines, says how often the rule would call somebody's code a circle.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.common import completing, environment, print_environment, print_json, print_table
from engine.bench import BenchSettings, Case, first_line, read_cases, request_for
from engine.cli_complete import stop_rules
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.request import SamplingParams
from lsp_server.suggestion import before_a_circle
from training.common import progress

PIECE = 20  # lines


@dataclass(frozen=True, slots=True)
class Found:
    """Counts over all cases, and over the pieces of their files."""

    completions: int
    circles: int
    first_line: int
    tokens: int
    tokens_not_needed: int
    right_lines: int
    right_lines_lost: int
    pieces: int
    pieces_called_circles: int


def complete(engine: Engine, cases: Sequence[Case], max_tokens: int) -> Iterator[tuple[Case, list[tuple[str, int]]]]:
    """Yield each case with its completion, as pieces of text and their numbers of tokens."""
    settings = BenchSettings(max_tokens, SamplingParams())
    for number, case in enumerate(cases, 1):
        request = replace(request_for(case, settings, speculation=True), stop=stop_rules(case.prefix, "block", ()))
        yield case, [(chunk.text, len(chunk.tokens)) for chunk in engine.complete(request)]
        if number % 20 == 0:
            progress(f"{number} of {len(cases)}")


def needed(chunks: Sequence[tuple[str, int]]) -> int:
    """Return how many tokens had come when the rule knew, or all of them."""
    text, tokens = "", 0
    for more, count in chunks:
        text, tokens = text + more, tokens + count
        if before_a_circle(text)[1]:
            break
    return tokens


def summary(completed: Sequence[tuple[Case, list[tuple[str, int]]]]) -> Found:
    """Count what became of the completions, and what the rule says of the files themselves."""
    circles = first = right = lost = tokens = spared = 0
    for case, chunks in completed:
        text, made = "".join(more for more, _ in chunks), sum(count for _, count in chunks)
        kept, found = before_a_circle(text)
        was_right = first_line(text) == first_line(case.expected)
        circles += found
        first += found and not kept.strip()
        right += was_right
        lost += was_right and first_line(kept) != first_line(text)
        tokens += made
        spared += made - needed(chunks)
    code = list(pieces([case for case, _ in completed]))
    called = sum(before_a_circle(piece)[1] for piece in code)
    return Found(len(completed), circles, first, tokens, spared, right, lost, len(code), called)


def pieces(cases: Sequence[Case]) -> Iterator[str]:
    """Cut the files of the cases, each once, into pieces of 20 lines."""
    for text in {case.path: case.prefix + case.expected + case.suffix for case in cases}.values():
        lines = text.split("\n")
        yield from ("\n".join(lines[start : start + PIECE]) for start in range(0, len(lines), PIECE))


def main() -> int:
    arguments = completing("circles", __doc__, max_tokens=64).parse_args()
    try:
        engine = Engine.load(EngineConfig(model=arguments.model, drafter=arguments.drafter))
        cases = read_cases(arguments.cases, arguments.limit)
        found = summary(list(complete(engine, cases, arguments.max_tokens)))
    except TreelineError as error:
        progress(f"error: {error}")
        return 1
    if arguments.json:
        print_json({"environment": asdict(environment()), **asdict(found)})
        return 0
    print_environment(environment())
    print_table(("what", "count"), [(name.replace("_", " "), str(value)) for name, value in asdict(found).items()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
