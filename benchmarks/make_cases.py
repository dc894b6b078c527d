"""Make the cases of `treeline bench decode` from code that the bundled pair was not trained on.

``python -m benchmarks.make_cases`` takes the held-out packages of training/packages.toml (permissively licensed,
pinned, checked against training/manifest.json) and writes ``runs/cases.jsonl``. The excerpts stay out of the
repository; the same inputs and seed give a byte-identical file, whose SHA-256 is printed.
``--folder PATH`` takes the Python files of a project of one's own instead.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import sys
import tokenize
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.bench import Case
from training.archives import Package, download, open_archive
from training.common import TrainingError, default_cache, progress, sha256_file
from training.data import MANIFEST, Document, read_packages, select
from training.source_filter import Deduplicator

KINDS = ("whole-line", "mid-line", "mid-token")
PREFIX_CHARS, SUFFIX_CHARS = 6000, 2000
REMOVED_LINES = (0, 0, 1, 3, 7)  # whole lines after the cursor's that are not there yet, drawn evenly
SHORTEST_WORD, SHORTEST_REST = 4, 8  # characters
_NOT_CODE = (tokenize.COMMENT, tokenize.STRING, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor: a line from 0 and a column from 0, in characters."""

    line: int
    column: int


def held_out_documents(archives: Path) -> list[Document]:
    """Take the Python files of the held-out packages, selected as for training."""
    records = {row["name"]: row for row in json.loads(MANIFEST.read_text(encoding="utf-8"))["packages"]}
    seen = Deduplicator()
    documents: list[Document] = []
    for package in read_packages():
        if package.split == "heldout" and package.source == "pypi":
            archive = download(package, archives)
            if sha256_file(archive) != records[package.name]["sha256"]:
                raise TrainingError(f"{archive} is not the file that {MANIFEST.name} names: delete it and try again")
            documents += select(package, open_archive(package, archive).files, seen)
    return [document for document in documents if document.language == "python"]


def folder_documents(folder: Path) -> list[Document]:
    """Take the Python files under a folder, filtered as for training."""
    package = Package(folder.resolve().name, "", split="heldout")
    files = ((path.relative_to(folder).as_posix(), path.read_bytes()) for path in sorted(folder.rglob("*.py")))
    documents = select(package, files, Deduplicator())
    if not documents:
        raise TrainingError(f"{folder} holds no Python file of hand-written code")
    return documents


def code_tokens(text: str) -> list[tokenize.TokenInfo]:
    """Return the tokens of code, without comments, strings and what only shapes the file; none if it is no Python."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return []
    found: list[tokenize.TokenInfo] = []
    depth = 0  # of f-strings, which are one STRING before Python 3.12 and many tokens since
    for token in tokens:
        name = tokenize.tok_name[token.type]
        depth += name.endswith("STRING_START")
        if not depth and token.type not in _NOT_CODE and token.string:
            found.append(token)
        depth -= name.endswith("STRING_END")
    return found


def places(text: str, kind: str) -> list[Place]:
    """Return all cursors of one kind; on each one's line more than a few characters are left to write.

    whole-line: at the first token of a line; mid-line: before a later token; mid-token: inside a word.
    """
    lines = text.split("\n")
    found: list[Place] = []
    for token in code_tokens(text):
        row, column = token.start[0] - 1, token.start[1]
        starts_line = not lines[row][:column].strip()
        if kind == "mid-token":
            length = len(token.string) if token.type == tokenize.NAME else 0
            found += [Place(row, column + inside) for inside in range(1, length) if length >= SHORTEST_WORD]
        elif starts_line == (kind == "whole-line") and len(lines[row]) - column >= SHORTEST_REST:
            found.append(Place(row, column))
    return found


def make_case(document: Document, place: Place, kind: str, removed: int) -> Case:
    """Cut a file at a cursor: the rest of its line and `removed` lines are what is to be written."""
    lines = document.text.split("\n")
    lines = [*(line + "\n" for line in lines[:-1]), lines[-1]]
    before = "".join(lines[: place.line]) + lines[place.line][: place.column]
    rest = lines[place.line][place.column :]
    expected = rest + "".join(lines[place.line + 1 : place.line + 1 + removed])
    after = "".join(lines[place.line + 1 + removed :])
    ending = "\n" if expected.endswith("\n") else ""
    return Case(
        id=f"{document.package}/{document.path}:{place.line + 1}:{place.column + 1}",
        language="python",
        path=document.path,
        prefix=_last_lines(before, PREFIX_CHARS),
        suffix=_first_lines(ending + after, SUFFIX_CHARS),
        expected=expected.removesuffix("\n"),
        kind=kind,
    )


def make_cases(documents: Sequence[Document], count: int, seed: int) -> list[Case]:
    """Draw `count` cases: kinds in turn, packages in turn, files at random, no cursor twice."""
    rng = random.Random(seed)
    packages = sorted({document.package for document in documents})
    cases: dict[str, Case] = {}
    for number in range(20 * count):
        if len(cases) == count:
            break
        kind = KINDS[len(cases) % len(KINDS)]
        package = packages[number % len(packages)]
        document = rng.choice([d for d in documents if d.package == package])
        candidates = places(document.text, kind)
        if candidates:
            case = make_case(document, rng.choice(candidates), kind, rng.choice(REMOVED_LINES))
            cases.setdefault(case.id, case)
    if len(cases) < count:
        raise TrainingError(f"the sources give only {len(cases)} cases: ask for fewer with --count")
    return list(cases.values())


def write_cases(cases: Sequence[Case], path: Path) -> str:
    """Write one JSON object a line; returns the SHA-256 of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(asdict(case), ensure_ascii=False, sort_keys=True) + "\n" for case in cases).encode()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _last_lines(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    kept = text[-most:]
    return kept[kept.find("\n") + 1 :] if "\n" in kept else kept


def _first_lines(text: str, most: int) -> str:
    return text if len(text) <= most else text[: text.rfind("\n", 0, most) + 1] or text[:most]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_cases", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/cases.jsonl"), help="default: %(default)s")
    parser.add_argument("--count", type=int, default=240, help="cases to make (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="Python files to take instead of the held-out packages")
    parser.add_argument("--archives", type=Path, default=default_cache() / "archives", help="where wheels are kept")
    arguments = parser.parse_args()
    try:
        documents = folder_documents(arguments.folder) if arguments.folder else held_out_documents(arguments.archives)
        cases = make_cases(documents, arguments.count, arguments.seed)
        digest = write_cases(cases, arguments.output)
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    progress(f"{len(cases)} cases of {len(documents)} files -> {arguments.output} (SHA-256 {digest})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
