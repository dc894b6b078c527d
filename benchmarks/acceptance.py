"""How often the drafter's i-th choice is the target's, by depth: the acceptance vector of tree speculation.

    python -m benchmarks.acceptance --cases runs/cases.jsonl

The target completes every case alone, greedily; the drafter, as the engine holds it, then ranks each of its tokens.
Passes are replayed over the ranks: a pass goes down while the token is among the drafter's eight best, and the next
begins after the token that ends it. Depth 1 is the first token after what was committed; `nodes`: how many passes came
there. `all`: every token. The last line is what `treeline plan --acceptance` takes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks.common import completing, environment, print_environment, print_json, print_table
from engine.bench import BenchSettings, Case, read_cases, request_for
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.hub import resolve_pair
from engine.model.loader import LoadOptions, load_transformer
from engine.model.transformer import Transformer
from engine.request import SamplingParams
from training.common import progress

RANKS, DEPTHS = 8, 8


@dataclass(frozen=True, slots=True)
class Row:
    """At one depth: how many draft nodes were looked at, and the share whose i-th choice was right, i = 1..8."""

    depth: str
    nodes: int
    shares: tuple[float, ...]


def ranks(engine: Engine, drafter: Transformer, case: Case, settings: BenchSettings) -> list[int | None]:
    """Rank each token of the target's completion among the drafter's choices, from 0; None: it cannot predict it."""
    request = request_for(case, settings, speculation=False)
    engine.forget()
    tokens = [token for chunk in engine.complete(request) for token in chunk.tokens]
    prompt = engine.prompt(request).ids
    ids = [*prompt, *tokens]
    cache = drafter.new_cache(len(ids))
    logits = drafter.forward(ids, range(-1, len(ids) - 1), cache, slice(len(prompt) - 1, -1))
    outputs = logits.shape[1]
    return [
        int((row > row[token]).sum()) if token < outputs else None for row, token in zip(logits, tokens, strict=True)
    ]


def nodes(found: Sequence[int | None]) -> Iterator[tuple[int, int | None]]:
    """Replay passes: (depth from 1, rank) of every token that a draft of eight choices a node could have held."""
    depth = 0
    for rank in found:
        depth += 1
        yield depth, rank
        if rank is None or rank >= RANKS:
            depth = 0  # this token was the pass's last; the next pass starts after it


def table(found: Sequence[Sequence[int | None]]) -> list[Row]:
    """One row for each depth up to 8, and one for all tokens."""
    seen = [node for sequence in found for node in nodes(sequence)]
    rows = [_row(str(depth), [rank for at, rank in seen if at == depth]) for depth in range(1, DEPTHS + 1)]
    return [row for row in rows if row.nodes] + [_row("all", [rank for _, rank in seen])]


def _row(depth: str, found: Sequence[int | None]) -> Row:
    return Row(depth, len(found), tuple(found.count(rank) / max(len(found), 1) for rank in range(RANKS)))


def _measure(arguments: argparse.Namespace) -> list[Row]:
    config = EngineConfig(model=arguments.model, drafter=arguments.drafter)
    pair = resolve_pair(config)
    if pair.drafter is None:
        raise TreelineError(f"{arguments.model} has no drafter: give one with --drafter")
    engine = Engine.load(config)
    drafter = load_transformer(pair.drafter, LoadOptions(guesses=True))
    settings = BenchSettings(arguments.max_tokens, SamplingParams(), fixed_length=True)
    cases = read_cases(arguments.cases, arguments.limit)
    found: list[list[int | None]] = []
    for number, case in enumerate(cases, 1):
        found.append(ranks(engine, drafter, case, settings))
        if number % 20 == 0:
            progress(f"{number} of {len(cases)}")
    return table(found)


def main() -> int:
    arguments = completing("acceptance", __doc__, max_tokens=48).parse_args()
    try:
        rows = _measure(arguments)
    except TreelineError as error:
        progress(f"error: {error}")
        return 1
    if arguments.json:
        print_json({"environment": asdict(environment()), "rows": [asdict(row) for row in rows]})
        return 0
    print_environment(environment())
    head = ("depth", "nodes", *(str(rank) for rank in range(1, RANKS + 1)))
    print_table(head, [(row.depth, str(row.nodes), *(f"{share:.3f}" for share in row.shares)) for row in rows])
    print(",".join(f"{share:.3f}" for share in rows[-1].shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
