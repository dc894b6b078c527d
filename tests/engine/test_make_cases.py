"""Cases for the benchmark, made from modules of the standard library."""

from __future__ import annotations

import json
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import make_cases
from benchmarks.make_cases import KINDS, PREFIX_CHARS, SUFFIX_CHARS, folder_documents, places, write_cases
from engine.bench import Case, read_cases
from training.common import TrainingError
from training.data import Document

STDLIB = Path(sysconfig.get_paths()["stdlib"])
NAMES = ("argparse.py", "dataclasses.py", "heapq.py", "textwrap.py")


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [Document("stdlib", name, "python", (STDLIB / name).read_text(encoding="utf-8")) for name in NAMES]


@pytest.fixture(scope="module")
def cases(documents: list[Document]) -> list[Case]:
    return make_cases.make_cases(documents, 90, seed=1)


def test_kinds_are_even_and_no_cursor_comes_twice(cases: list[Case]) -> None:
    assert Counter(case.kind for case in cases) == dict.fromkeys(KINDS, 30)
    assert len({case.id for case in cases}) == 90


def test_a_case_is_a_cut_of_its_file(documents: list[Document], cases: list[Case]) -> None:
    texts = {document.path: document.text for document in documents}
    for case in cases:
        text = texts[case.path]
        line, column = map(int, case.id.split(":")[1:])
        offset = sum(len(row) + 1 for row in text.split("\n")[: line - 1]) + column - 1
        assert text[:offset].endswith(case.prefix)
        assert text[offset:].startswith(case.expected + case.suffix)
        assert len(case.prefix) <= PREFIX_CHARS
        assert len(case.suffix) <= SUFFIX_CHARS
        if len(case.prefix) < min(offset, PREFIX_CHARS):
            assert text[offset - len(case.prefix) - 1] == "\n"


def test_each_kind_is_what_it_says(cases: list[Case]) -> None:
    for case in cases:
        before = case.prefix.rpartition("\n")[2]
        assert case.expected.strip()
        if case.kind == "whole-line":
            assert not before.strip()
            assert not case.expected[0].isspace()
        elif case.kind == "mid-line":
            assert before.strip()
        else:
            assert (before[-1] + case.expected[0]).isidentifier() or before[-1].isdigit()


def test_comments_and_strings_hold_no_cursor() -> None:
    text = '"""Doc string words."""\n# a comment\nvalue = f"text {inside} more" + other_value\n'
    for kind in KINDS:
        lines = {place.line for place in places(text, kind)}
        assert lines <= {2}
    rows = text.split("\n")
    words = {rows[p.line][p.column :].split()[0] for p in places(text, "mid-token")}
    assert words == {"alue", "lue", "ue", "e", "ther_value", "her_value", "er_value", "r_value"} | {
        "other_value"[cut:] for cut in range(5, 11)
    }
    assert places("def (:\n", "whole-line") == []


def test_the_same_seed_gives_the_same_bytes(documents: list[Document], tmp_path: Path) -> None:
    one = write_cases(make_cases.make_cases(documents, 12, seed=5), tmp_path / "one.jsonl")
    two = write_cases(make_cases.make_cases(documents, 12, seed=5), tmp_path / "two.jsonl")
    other = write_cases(make_cases.make_cases(documents, 12, seed=6), tmp_path / "other.jsonl")
    assert one == two != other
    assert read_cases(tmp_path / "one.jsonl") == make_cases.make_cases(documents, 12, seed=5)
    assert all(json.loads(line)["language"] == "python" for line in (tmp_path / "one.jsonl").open(encoding="utf-8"))


def test_too_little_source_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no Python file"):
        folder_documents(tmp_path)
    (tmp_path / "small.py").write_text("def function(argument):\n    return argument\n" * 5)
    with pytest.raises(TrainingError, match="give only"):
        make_cases.make_cases(folder_documents(tmp_path), 500, seed=0)
