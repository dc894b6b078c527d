"""Whether code from other files of the workspace makes completions better.

    python -m benchmarks.context --limit 120

The held-out packages are written out as workspaces. At the cursors of `benchmarks.make_cases` the language server's
ContextBuilder says what else the model should see, in three ways: nothing; the definitions of what the file imports;
these and what is known of other open files (drawn at random). The same request is completed with each.
`line exact`: the first line is the one that stood there; `+` and `-`: cases that the context made right, and wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from benchmarks.common import environment, print_environment, print_json, print_table
from benchmarks.make_cases import held_out_documents, make_cases
from engine.bench import Case, first_line
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.request import CompletionRequest, ContextFile
from lsp_server.context import ContextBuilder
from lsp_server.exclusions import Exclusions
from lsp_server.source_text import SourceText
from training.common import TrainingError, default_cache, progress
from training.data import Document

WAYS = ("nothing", "definitions", "and open files")


@dataclass(frozen=True, slots=True)
class Row:
    """Means over the cases of one way; tokens are the prompt's."""

    way: str
    cases: int
    cases_with_context: int
    context_characters: float
    prompt_tokens: float
    line_exact_match: float
    became_right: int
    became_wrong: int
    accepted_per_pass: float


@dataclass(frozen=True, slots=True)
class _Answer:
    context: tuple[ContextFile, ...]
    right: bool
    prompt_tokens: int
    new_tokens: int
    passes: int


def write_workspace(documents: Sequence[Document], folder: Path) -> dict[tuple[str, str], Path]:
    """Write every package into a folder of its own; returns where each file is."""
    paths: dict[tuple[str, str], Path] = {}
    for document in documents:
        path = folder / document.package / document.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document.text, encoding="utf-8")
        paths[document.package, document.path] = path
    return paths


def contexts(
    case: Case, documents: Sequence[Document], paths: dict[tuple[str, str], Path], budget: int, opened: int
) -> Iterator[tuple[ContextFile, ...]]:
    """Yield what each of the ways shows of other files."""
    package, _, place = case.id.partition("/")
    name, line, column = place.rsplit(":", 2)
    document = next(each for each in documents if (each.package, each.path) == (package, name))
    offset = sum(len(each) + 1 for each in document.text.split("\n")[: int(line) - 1]) + int(column) - 1
    text = document.text[:offset] + document.text[offset + len(case.expected) :]
    root = paths[package, name]
    for _ in Path(name).parts:
        root = root.parent
    source = _source(paths[package, name], text)
    yield ()
    siblings = [each for each in documents if each.package == package and each.path != name]
    siblings = random.Random(case.id).sample(siblings, min(opened, len(siblings)))
    for shown in ([], siblings):
        builder = ContextBuilder(Exclusions([root]), budget)
        for sibling in shown:
            builder.opened(_source(paths[package, sibling.path], sibling.text))
        builder.opened(source)
        builder.refresh(source)
        yield builder.build(source, int(line) - 1)


def complete(engine: Engine, case: Case, context: tuple[ContextFile, ...], max_tokens: int) -> _Answer:
    """Complete one case from a cold cache."""
    request = CompletionRequest(case.prefix, case.suffix, case.path, case.language, max_tokens=max_tokens)
    engine.forget()
    chunks = list(engine.complete(replace(request, context=context)))
    stats = chunks[-1].stats
    if stats is None:
        raise TreelineError(f"{case.id}: the completion has no end")
    text = "".join(chunk.text for chunk in chunks)
    right = first_line(text) == first_line(case.expected)
    return _Answer(context, right, stats.prompt_tokens, stats.new_tokens, stats.target_passes)


def table(answers: Sequence[Sequence[_Answer]]) -> list[Row]:
    """Make a row of each way; `answers` has one sequence a case."""
    rows: list[Row] = []
    for number, way in enumerate(WAYS):
        column = [case[number] for case in answers]
        changes = [int(case[number].right) - int(case[0].right) for case in answers]
        passes = sum(answer.passes for answer in column)
        rows.append(
            Row(
                way,
                len(column),
                sum(bool(answer.context) for answer in column),
                fmean(sum(len(file.text) for file in answer.context) for answer in column),
                fmean(answer.prompt_tokens for answer in column),
                fmean(answer.right for answer in column),
                changes.count(1),
                changes.count(-1),
                sum(answer.new_tokens for answer in column) / max(passes, 1),
            )
        )
    return rows


def _source(path: Path, text: str) -> SourceText:
    return SourceText(path.as_uri(), path, "python", text.split("\n"))


def _measure(arguments: argparse.Namespace) -> list[Row]:
    documents = held_out_documents(arguments.archives)
    cases = make_cases(documents, arguments.limit, arguments.seed)
    engine = Engine.load(EngineConfig())
    answers: list[list[_Answer]] = []
    with tempfile.TemporaryDirectory() as name:
        paths = write_workspace(documents, Path(name).resolve())
        for number, case in enumerate(cases, 1):
            ways = contexts(case, documents, paths, arguments.budget, arguments.open_files)
            answers.append([complete(engine, case, context, arguments.max_tokens) for context in ways])
            progress(f"{number} of {len(cases)}: {case.id}")
    return table(answers)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.context", description=__doc__)
    parser.add_argument("--limit", type=int, default=240, help="cases (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens a completion (default: %(default)s)")
    parser.add_argument("--budget", type=int, default=6000, help="characters of context (default: %(default)s)")
    parser.add_argument("--open-files", type=int, default=3, help="other files that are open (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--archives", type=Path, default=default_cache() / "archives", help="where wheels are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    try:
        rows = _measure(arguments)
    except (TrainingError, TreelineError) as error:
        progress(f"error: {error}")
        return 1
    settings = {key: getattr(arguments, key) for key in ("limit", "max_tokens", "budget", "open_files", "seed")}
    if arguments.json:
        print_json({"environment": environment(), "settings": settings, "rows": [asdict(row) for row in rows]})
        return 0
    print_environment(environment())
    titles = ("context", "cases", "with any", "characters", "prompt", "line exact", "+", "-", "per pass")
    print_table(
        titles,
        [
            (
                row.way,
                str(row.cases),
                str(row.cases_with_context),
                f"{row.context_characters:.0f}",
                f"{row.prompt_tokens:.0f}",
                f"{row.line_exact_match:.1%}",
                str(row.became_right),
                str(row.became_wrong),
                f"{row.accepted_per_pass:.2f}",
            )
            for row in rows
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
