"""Chunks are cut where definitions begin; the ring holds what was looked at last, nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.chunks import Chunk, cut_chunk, first_definition
from lsp_server.copied import find_lines, pasted_lines
from lsp_server.ring import ChunkRing
from lsp_server.source_text import SourceText
from tests.lsp_server.documents import functions

PYTHON = '''import os

LIMIT = 3

# counts
# things
@cached
def count(things):
    total = 0
    for thing in things:
        total += thing
    return total


class Shop:
    """Sells."""

    def sell(self):
        return 1

    def buy(self):
        return 2
'''

BEGINNINGS = [
    "def f(x):",
    "async def f():",
    "class A:",
    "@decorator",
    "export default function main() {",
    "export const f = () => 1;",
    "const x = 1;",
    "abstract class A {",
    "pub(crate) fn run<T>(x: T) {",
    "impl<T> A<T> {",
    "fn main() {",
    "func (s *S) Run() {",
    "public static final class B {",
    "interface I {",
    "export type T = string;",
    "#[derive(Debug)]",
    "    def method(self):",
]
NO_BEGINNINGS = [
    "    x = 1",
    "object.attribute()",
    "type(x)",
    "return fn(x)",
    "class_name = 3",
    "default = 4",
    "",
    "    const x = 1;",
]


def source(text: str, uri: str = "file:///w/a.py") -> SourceText:
    return SourceText(uri, Path(uri.removeprefix("file://")), "python", text.split("\n"))


def chunk(text: str, uri: str, start: int = 0) -> Chunk:
    return Chunk(uri, None, start, tuple(text.splitlines()))


@pytest.mark.parametrize("line", BEGINNINGS)
def test_what_begins_a_definition(line: str) -> None:
    assert first_definition(source(f"x\n\n{line}\n")) == 2


@pytest.mark.parametrize("line", NO_BEGINNINGS)
def test_what_begins_none(line: str) -> None:
    assert first_definition(source(f"x\n\n{line}\n")) == 0


def test_a_chunk_begins_at_a_definition_with_its_decorators_and_comments() -> None:
    lines = PYTHON.split("\n")
    cut = cut_chunk(source(PYTHON), lines.index("        total += thing"), 8)
    assert cut is not None
    assert cut.lines[0] == "# counts"
    assert cut.lines[-1] == "    return total" or cut.lines[-1] == "        total += thing"


def test_a_chunk_ends_before_the_next_definition() -> None:
    text = functions("f", 30)
    cut = cut_chunk(source(text), 40, 20)
    assert cut is not None
    assert cut.lines[0].startswith("def f_")
    assert cut.lines[-1].startswith("    return")
    assert cut.start <= 40 < cut.start + len(cut.lines)


@given(
    st.lists(
        st.sampled_from(["def f():", "    x = 1", "", "class A:", "    def g(self):", "@a", "# c", "y" * 900, " "]),
        max_size=200,
    ),
    st.integers(-5, 250),
    st.integers(8, 64),
)
def test_a_chunk_is_a_piece_of_the_file_around_the_line(lines: list[str], line: int, size: int) -> None:
    text = SourceText("u", None, "python", tuple(lines))
    cut = cut_chunk(text, line, size, 3000)
    if not any(each.strip() for each in lines):
        assert cut is None
    if cut is None:
        return
    assert list(cut.lines) == lines[cut.start : cut.start + len(cut.lines)]
    assert 0 < len(cut.lines) <= size
    assert len(cut.text) <= 3000
    assert cut.lines[0].strip()
    assert cut.lines[-1].strip()


def test_line_breaks_do_not_matter() -> None:
    plain, broken = PYTHON.split("\n"), [line + "\r\n" for line in PYTHON.split("\n")]
    cuts = [cut_chunk(SourceText("u", None, "python", lines), 9) for lines in (plain, broken)]
    assert cuts[0] == cuts[1]


def test_the_ring_keeps_the_newest() -> None:
    ring = ChunkRing(size=3)
    for number in range(5):
        ring.add(chunk(functions(f"f{number}", 4), f"u{number}"))
    assert [each.uri for each in ring.chunks] == ["u2", "u3", "u4"]


def test_the_ring_holds_no_code_twice() -> None:
    ring = ChunkRing()
    text = functions("f", 10)
    assert ring.add(chunk(text, "a")) == {"a"}
    assert ring.add(chunk(text, "a")) == set()
    assert ring.add(chunk(text.replace("9", "nine"), "b")) == {"a", "b"}
    assert [each.uri for each in ring.chunks] == ["b"]
    assert ring.add(chunk(functions("other", 10), "b", start=5)) == {"b"}
    assert len(ring.chunks) == 1
    assert ring.add(chunk(functions("third", 10), "b", start=500)) == {"b"}
    assert len(ring.chunks) == 2


def test_a_small_piece_does_not_push_out_a_big_one_that_holds_it() -> None:
    ring = ChunkRing()
    ring.add(chunk(functions("f", 10), "a"))
    ring.add(chunk("\n".join(functions("f", 10).splitlines()[:2]), "b"))
    assert [each.uri for each in ring.chunks] == ["a", "b"]


def test_one_file_does_not_fill_the_ring() -> None:
    ring = ChunkRing()
    ring.add(chunk(functions("other", 4), "other"))
    for number in range(30):
        ring.add(chunk(functions(f"f{number}", 4), "long", start=100 * number))
    assert [each.uri for each in ring.chunks] == ["other", *["long"] * 4]
    assert ring.chunks[-1].start == 2900


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(0, 3)), max_size=40))
def test_the_ring_reports_every_document_that_changed(events: list[tuple[int, int, int]]) -> None:
    ring = ChunkRing(size=4)
    for uri, start, text in events:
        before = ring.chunks
        changed = ring.add(chunk(functions(f"f{text}{uri % 2}", 3), f"u{uri}", start))
        for each in {c.uri for c in (*before, *ring.chunks)}:
            moved = [c for c in before if c.uri == each] != [c for c in ring.chunks if c.uri == each]
            assert moved == (each in changed)
        assert len(ring.chunks) <= 4
        assert not any(a.overlaps(b) or a.is_same_code(b) for a in ring.chunks for b in ring.chunks if a is not b)


def test_pasted_lines_are_found_where_they_were_copied() -> None:
    other = source(functions("f", 30), "file:///w/b.py")
    before = ["def g():", "", "end"]
    copied = list(other.lines[40:43])
    for after in (
        ["def g():", *copied, "end"],
        ["def g():", *copied, "", "end"],
        ["def g():", *("    " + line for line in copied), "end"],
        ["def g():" + copied[0][3:], *copied[1:], "", "end"],
    ):
        pasted = pasted_lines(before, after)
        found = find_lines(pasted, [source("nothing\n"), other])
        assert found is not None, after
        assert found[0] is other
        assert found[1] in (40, 39)


@pytest.mark.parametrize(
    "after",
    [
        ["first line", "second line", "x", "third line"],  # one word
        ["first line", "", "second line", "third line"],  # a line break
        ["first", "line", "second line", "third line"],  # a split line
        ["first line", "third line"],  # fewer lines
        ["first line", "second line", ")", "}", "third line"],  # nothing that says anything
    ],
)
def test_typing_is_no_paste(after: list[str]) -> None:
    assert pasted_lines(["first line", "second line", "third line"], after) == []


def test_lines_that_stand_nowhere_are_from_nowhere() -> None:
    assert find_lines(["a = compute(1)", "b = compute(2)"], [source("a = compute(1)\nc = compute(2)\n")]) is None


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 5))
def test_a_paste_into_a_long_document_is_found_exactly(length: int, at: int, removed: int) -> None:
    before = [f"line {number}" for number in range(length)]
    pasted = ["first pasted", "", "second pasted", "third pasted", "4", "5", "6"]
    at = min(at, length)
    after = [*before[:at], *pasted, *before[at + removed :]]
    assert pasted_lines(before, after) == pasted
