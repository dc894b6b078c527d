"""What of a workspace the model is shown: related, within the budget, unchanged by typing, and never a secret."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.request import ContextFile
from lsp_server.context import ContextBuilder
from lsp_server.exclusions import Exclusions
from lsp_server.source_text import SourceText
from tests.lsp_server.documents import document, functions, put, shown


def typed(source: SourceText, line: int, text: str) -> Iterator[SourceText]:
    """The document after each character of a text that is typed at the end of a line."""
    lines = list(source.lines)
    for character in text:
        if character == "\n":
            lines.insert(line + 1, "")
            line += 1
        else:
            lines[line] += character
        yield SourceText(source.uri, source.path, source.language, list(lines))


def common_prefix(one: tuple[ContextFile, ...], other: tuple[ContextFile, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def test_a_lonely_document_has_no_context(root: Path, builder: ContextBuilder) -> None:
    source = document(put(root / "a.py", functions("f", 5)))
    builder.opened(source)
    builder.refresh(source)
    assert builder.build(source, 3) == ()


def test_other_documents_are_shown_under_their_path_in_the_workspace(root: Path, builder: ContextBuilder) -> None:
    main, other = document(put(root / "main.py", "x = 1\n")), document(put(root / "pkg/b.py", functions("g", 3)))
    builder.opened(main)
    builder.opened(other)
    assert builder.build(main, 0) == (ContextFile("pkg/b.py", functions("g", 3)),)
    assert [file.path for file in builder.build(other, 0)] == ["main.py"]


def test_the_place_that_was_edited_last_is_shown(root: Path, builder: ContextBuilder) -> None:
    main, other = document(put(root / "main.py", "x = 1\n")), document(put(root / "b.py", functions("g", 200)))
    builder.opened(main)
    builder.opened(other)
    line = list(other.lines).index("def g_150(value_g):")
    builder.focused(other, line)
    edited = other
    for edited in typed(other, line + 1, " + 77"):
        builder.edited(edited, line + 1)
    builder.focused(edited, 3)  # looking elsewhere afterwards
    assert "+ 77" in shown(builder.build(main, 0))


def test_typing_two_hundred_characters_changes_nothing(root: Path, builder: ContextBuilder) -> None:
    helper = put(root / "helper.py", "def assist(a: int) -> int:\n    return a\n\ndef other():\n    pass\n")
    main = document(put(root / "main.py", "import helper\nfrom helper import assist\n\n" + functions("m", 30)))
    for path in ("b", "c", "d"):
        builder.opened(document(put(root / f"{path}.py", functions(path, 10))))
    builder.opened(document(helper))
    builder.opened(main)
    builder.refresh(main)
    first = builder.build(main, 40)
    assert "def assist(a: int) -> int: ..." in shown(first)
    text = "\n".join(
        ["    result_of_typing = assist(40) + something_else(", "        value, other=1)", "    if result:"] * 4
    )
    assert len(text) > 200
    line = 40
    for source in typed(main, 40, text):
        line = 40 + len(source.lines) - len(main.lines)
        builder.edited(source, line)
        builder.refresh(source)
        assert builder.build(source, line) is first


def test_autosave_while_typing_changes_nothing(root: Path, builder: ContextBuilder) -> None:
    main = document(put(root / "main.py", functions("m", 30)))
    builder.opened(document(put(root / "b.py", functions("b", 10))))
    builder.opened(main)
    first = builder.build(main, 40)
    assert first
    for source in typed(main, 40, "abcdefghij"):
        builder.edited(source, 40)
        builder.saved(source)
        assert builder.build(source, 40) is first


def test_what_stays_stays_in_front(root: Path) -> None:
    builder = ContextBuilder(Exclusions([root]), budget=20_000)
    main = document(put(root / "main.py", functions("m", 100)))
    builder.opened(main)
    before: tuple[ContextFile, ...] = ()
    for number in range(8):
        builder.opened(document(put(root / f"b{number}.py", functions(f"b{number}", 5))))
        after = builder.build(main, 50 * (number % 2))
        assert len(after) == number + 1
        assert common_prefix(before, after) == number
        before = after


def test_a_newly_imported_name_comes_behind_what_was_there(root: Path) -> None:
    builder = ContextBuilder(Exclusions([root]), budget=20_000)
    put(root / "helper.py", "def assist(a):\n    return a\n\ndef other():\n    pass\n")
    main = document(put(root / "main.py", "from helper import assist\n"))
    builder.opened(document(put(root / "b.py", functions("b", 5))))
    builder.opened(main)
    builder.refresh(main)
    first = builder.build(main, 0)
    changed = document(root / "main.py", "from helper import assist, other\n")
    builder.edited(changed, 0)
    assert builder.build(changed, 0) is first
    builder.refresh(changed)
    second = builder.build(changed, 0)
    assert second[: len(first)] == first
    assert second[-1] == ContextFile("helper.py", "def other(): ...\n")


def test_imports_in_another_order_change_nothing(root: Path, builder: ContextBuilder) -> None:
    for name in ("one", "two", "three"):
        put(root / f"{name}.py", f"def {name}(a): ...\n")
    main = document(put(root / "main.py", "from one import one\nfrom two import two\n"))
    builder.opened(main)
    builder.refresh(main)
    first = builder.build(main, 0)
    changed = document(root / "main.py", "from three import three\nfrom two import two\nfrom one import one\n")
    builder.edited(changed, 0)
    builder.refresh(changed)
    assert builder.build(changed, 0) == (*first, ContextFile("three.py", "def three(a): ...\n"))


def test_going_far_makes_it_anew(root: Path) -> None:
    builder = ContextBuilder(Exclusions([root]), budget=800)
    text = functions("alpha", 40) + "\n" * 100 + functions("beta", 40)
    main = document(put(root / "main.py", text))
    builder.opened(document(put(root / "a.py", functions("alpha", 60)[4000:4500])))
    builder.opened(document(put(root / "b.py", functions("beta", 60)[3600:4100])))
    builder.opened(document(put(root / "c.py", functions("gamma", 3))))
    builder.opened(main)
    near = {file.path for file in builder.build(main, 20)}
    assert "a.py" in near
    assert "b.py" not in near
    assert {file.path for file in builder.build(main, 50)} == near
    far = {file.path for file in builder.build(main, len(main.lines) - 10)}
    assert "b.py" in far


def test_what_the_cursor_sees_already_is_left_out(root: Path, builder: ContextBuilder) -> None:
    text = functions("f", 12)
    main = document(put(root / "main.py", text))
    builder.opened(document(put(root / "copy.py", text.replace("11", "twelve"))))
    builder.opened(document(put(root / "other.py", functions("g", 3))))
    builder.opened(main)
    assert [file.path for file in builder.build(main, 20)] == ["other.py"]


def test_the_place_that_was_copied_from_is_shown(root: Path, builder: ContextBuilder) -> None:
    other = document(put(root / "b.py", functions("g", 200)))
    main = document(put(root / "main.py", "x = 1\n\ny = 2\n"))
    builder.opened(other)
    builder.opened(main)
    assert "g_150" not in shown(builder.build(main, 0))
    line = list(other.lines).index("def g_150(value_g):")
    pasted = SourceText(main.uri, main.path, "python", ["x = 1", *other.lines[line : line + 3], "y = 2", ""])
    builder.edited(pasted, 3)
    text = shown(builder.build(pasted, 3))
    assert "def g_150(value_g):" in text
    assert "def g_152(value_g):" in text  # what stands around it, too


@given(st.integers(200, 9000), st.integers(1, 12), st.integers(0, 6), st.integers(0, 300))
@settings(max_examples=30)
def test_the_budget_is_kept(budget: int, documents: int, imports: int, line: int) -> None:
    builder = ContextBuilder(Exclusions([]), budget=budget)
    for number in range(documents):
        lines = functions(f"f{number}", 40).split("\n")
        builder.opened(SourceText(f"untitled:{number}.py", None, "python", lines))
    main = SourceText("untitled:main.py", None, "python", ["x = 1"] * 301)
    for at in (line, 0, 300):
        files = builder.build(main, at)
        assert sum(len(file.text) + len(file.path) for file in files) <= budget
        assert len({file.text for file in files}) == len(files)
        assert all(file.text.endswith("\n") and file.path for file in files)


SEQUENCE = st.lists(
    st.tuples(
        st.sampled_from(["open", "edit", "save", "focus", "close", "build"]), st.integers(0, 4), st.integers(0, 99)
    ),
    max_size=60,
)


@given(SEQUENCE)
@settings(max_examples=60)
def test_any_order_of_events_gives_a_context_of_other_documents(events: list[tuple[str, int, int]]) -> None:
    builder = ContextBuilder(Exclusions([]))
    texts = [SourceText(f"untitled:{n}.py", None, "python", functions(f"f{n}", 30).split("\n")) for n in range(5)]
    is_open: set[int] = set()
    for what, number, line in events:
        source = texts[number]
        if what == "open":
            builder.opened(source)
        elif what == "edit":
            lines = list(source.lines)
            lines.insert(min(line, len(lines)), f"inserted_{line} = {number}")
            texts[number] = source = SourceText(source.uri, None, "python", lines)
            builder.edited(source, line)
        elif what == "save":
            builder.saved(source)
        elif what == "focus":
            builder.focused(source, line)
        elif what == "close":
            builder.closed(source.uri)
        else:
            files = builder.build(source, line)
            names = {file.path for file in files}
            assert f"{number}.py" not in names
            assert names <= {f"{n}.py" for n in is_open}
            assert builder.build(source, line) is files
        if what != "close":
            is_open.add(number)
        else:
            is_open.discard(number)


def test_building_does_not_read_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = ContextBuilder(Exclusions([root], clock=lambda: 0.0))
    put(root / "helper.py", "def assist(a): ...\n")
    main = document(put(root / "main.py", "from helper import assist\n" + functions("m", 40)))
    other = document(put(root / "b.py", functions("b", 10)))
    builder.opened(other)
    builder.opened(main)
    builder.refresh(main)
    builder.build(main, 0)
    for name in ("stat", "lstat", "readlink", "open"):
        monkeypatch.setattr(os, name, lambda *given, **named: pytest.fail("touched the disk"))
    monkeypatch.setattr("builtins.open", lambda *given, **named: pytest.fail("opened a file"))
    for line in (0, 100, 5, 90):
        assert builder.build(main, line)


def test_a_closed_document_stays_known_unless_it_is_on_no_disk(root: Path, builder: ContextBuilder) -> None:
    main = document(put(root / "main.py", "x = 1\n"))
    kept = document(put(root / "b.py", functions("b", 5)))
    untitled = SourceText("untitled:Untitled-1", None, "python", functions("u", 5).split("\n"))
    gone = document(root / "gone.py", functions("gone", 5))
    for source in (main, kept, untitled, gone):
        builder.opened(source)
    assert {file.path for file in builder.build(main, 0)} == {"b.py", "Untitled-1", "gone.py"}
    for source in (kept, untitled, gone):
        builder.closed(source.uri)
    assert [file.path for file in builder.build(main, 0)] == ["b.py"]


def test_cells_of_one_notebook_are_not_context_of_one_another(root: Path, builder: ContextBuilder) -> None:
    path = put(root / "n.ipynb", "{}")
    cells = [
        SourceText(f"vscode-notebook-cell:{path}#c{n}", cell_path, "python", functions(f"c{n}", 3).split("\n"))
        for n, cell_path in enumerate([path, path, None])
    ]
    for cell in cells:
        builder.opened(cell)
    assert builder.build(cells[0], 0) == ()
    assert builder.build(cells[2], 0) == ()


def test_refreshing_in_threads_while_documents_come_and_go(root: Path) -> None:
    builder = ContextBuilder(Exclusions([root]))
    for number in range(20):
        put(root / f"m{number}.py", f"def f{number}(): ...\n")
    main = document(put(root / "main.py", "".join(f"from m{n} import f{n}\n" for n in range(20))))

    async def run() -> None:
        builder.opened(main)
        pending = [asyncio.create_task(asyncio.to_thread(builder.refresh, main)) for _ in range(30)]
        for number in range(200):
            other = document(root / f"m{number % 20}.py")
            builder.opened(other)
            builder.build(main, number % 20)
            builder.closed(other.uri)
            await asyncio.sleep(0)
        await asyncio.gather(*pending)

    asyncio.run(run())
    assert "def f19(): ..." in shown(builder.build(main, 0))
    builder.closed(main.uri)
    builder.refresh(main)
    assert not builder._definitions
