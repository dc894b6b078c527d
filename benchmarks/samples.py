"""Print completions for a reader, unpicked: the first cases of a file, as the model writes them.

    python -m benchmarks.samples --cases runs/cases.jsonl --limit 50 --output docs/samples.md

The page's own words, up to the line `<!-- samples -->`, are kept; what follows is written anew.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.bench import BenchSettings, Case, first_line, read_cases, request_for
from engine.cli_complete import stop_rules
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.request import SamplingParams
from training.common import progress

MARK = "<!-- samples -->"
LINES_BEFORE, LINES_AFTER = 6, 2
WIDTH = 110  # characters of a line that are shown


@dataclass(frozen=True, slots=True)
class Sample:
    """A case and what the model wrote there."""

    case: Case
    text: str

    @property
    def right(self) -> bool:
        """Whether the first line is the file's."""
        return first_line(self.text) == first_line(self.case.expected)


def choose(cases: Sequence[Case], limit: int, seed: int) -> list[Case]:
    """Draw `limit` cases, whatever becomes of them, in the order of the file."""
    drawn = random.Random(seed).sample(range(len(cases)), min(limit, len(cases)))
    return [cases[index] for index in sorted(drawn)]


def complete(engine: Engine, case: Case, max_tokens: int) -> Sample:
    """Complete one case as an editor would be answered: to the end of the block at most."""
    request = request_for(case, BenchSettings(max_tokens, SamplingParams()), speculation=True)
    engine.forget()
    request = replace(request, stop=stop_rules(case.prefix, "block", ()))
    return Sample(case, "".join(chunk.text for chunk in engine.complete(request)))


def markdown(samples: Sequence[Sample]) -> Iterator[str]:
    """The page's second part: counts, then a section for each sample."""
    kinds = sorted({sample.case.kind for sample in samples})
    right = {kind: [sample.right for sample in samples if sample.case.kind == kind] for kind in kinds}
    counts = ", ".join(f"{kind} {sum(found)} of {len(found)}" for kind, found in right.items())
    yield f"First lines as in the file: {sum(map(sum, right.values()))} of {len(samples)} ({counts})."
    for number, sample in enumerate(samples, 1):
        case = sample.case
        yield f"\n### {number}. {case.kind}, `{case.id}`: {'as in the file' if sample.right else 'other'}\n"
        yield "```python"
        yield from _shown(sample)
        yield "```"
        if not sample.right:
            yield f"\nIn the file: `{_cut(first_line(case.expected)).replace('`', chr(39))}`"


def _shown(sample: Sample) -> Iterator[str]:
    """The lines around the cursor; the model's text stands between the signs ⟦ and ⟧."""
    before = sample.case.prefix.split("\n")[-LINES_BEFORE - 1 :]
    after = sample.case.suffix.split("\n")[: LINES_AFTER + 1]
    text = "\n".join(before) + "⟦" + sample.text + "⟧" + "\n".join(after)
    yield from (_cut(line.replace("```", "'''")) for line in text.split("\n"))


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[:WIDTH] + " ..."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.samples", description=__doc__)
    parser.add_argument("--cases", type=Path, default=Path("runs/cases.jsonl"), help="default: %(default)s")
    parser.add_argument("--limit", type=int, default=50, help="cases to draw (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens a completion (default: %(default)s)")
    parser.add_argument("--model", default="bundled", help="default: %(default)s")
    parser.add_argument("--drafter", default="auto", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("docs/samples.md"), help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        cases = choose(read_cases(arguments.cases), arguments.limit, arguments.seed)
        engine = Engine.load(EngineConfig(model=arguments.model, drafter=arguments.drafter))
        samples = [complete(engine, case, arguments.max_tokens) for case in cases]
    except TreelineError as error:
        progress(f"error: {error}")
        return 1
    kept = arguments.output.read_text(encoding="utf-8").partition(MARK)[0] if arguments.output.exists() else ""
    body = "\n".join(markdown(samples))
    arguments.output.write_text(f"{kept}{MARK}\n\n{body}\n", encoding="utf-8")
    progress(f"{len(samples)} samples -> {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
