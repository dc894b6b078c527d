"""Suggestions of the bundled pair, in the real workbench."""

from __future__ import annotations

import json
import time

import httpx
import pytest
from playwright.sync_api import expect

from engine.launch import running
from tests.e2e.vscode.conftest import PERIMETER, Opening
from tests.e2e.vscode.recording import until
from tests.e2e.vscode.workbench import Workbench

ANSWER = " width * height"  # of the bundled pair, behind `return` at the end of PERIMETER
BLOCK = "def read_lines(path):\n    with open(path) as file:\n        return file.readlines()\n\n\n"


def ask(window: Workbench) -> None:
    """Type what is answered by ANSWER, and wait for that."""
    window.wait_until_ready()
    window.type("    return")
    window.wait_for_ghost_text(ANSWER)


def completions(environment: dict[str, str]) -> str:
    """Return the daemon's own count of the completions that it was asked for."""
    (daemon,) = running(environment)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(daemon.files.socket))) as client:
        lines = client.get("http://engine/metrics").text.splitlines()
    return "\n".join(line for line in lines if line.startswith("treeline_requests"))


def opened(window: Workbench) -> list[str]:
    """Return the documents that the server was told of."""
    return [each["textDocument"]["uri"] for each in window.recording.sent("textDocument/didOpen")]


def settled(environment: dict[str, str]) -> str:
    """Return that count once it has stood still for a second: requests that were given up may still end."""
    last, since = "", time.monotonic()
    while time.monotonic() - since < 1:
        if (now := completions(environment)) != last:
            last, since = now, time.monotonic()
        time.sleep(0.05)
    return last


def test_tab_accepts_what_is_shown_and_the_saved_file_holds_it(open_workbench: Opening) -> None:
    window = open_workbench()
    ask(window)
    window.press("Tab")
    window.wait_for_no_ghost()
    window.save(window.folder / "main.py", PERIMETER + "    return width * height")


def test_one_word_is_accepted_and_the_rest_stays(open_workbench: Opening) -> None:
    window = open_workbench()
    ask(window)
    window.press("Control+ArrowRight")  # to VS Code, the space is a word
    window.wait_for_ghost_text("width * height")
    window.press("Control+ArrowRight")
    window.wait_for_ghost_text(" * height")
    window.save(window.folder / "main.py", PERIMETER + "    return width")


def test_escape_dismisses(open_workbench: Opening) -> None:
    window = open_workbench()
    ask(window)
    window.press("Escape")
    window.wait_for_no_ghost()
    window.save(window.folder / "main.py", PERIMETER + "    return")
    assert window.ghost_text() == ""


def test_typing_along_keeps_the_suggestion_and_asks_the_engine_nothing(
    open_workbench: Opening, engine_environment: dict[str, str]
) -> None:
    window = open_workbench(settings={"treeline.prefetch": False})
    ask(window)
    before, began = settled(engine_environment), time.time()
    (*_, asked) = [each.items[0] for each in window.recording.exchanges() if each.items]
    for index in range(1, 8):
        window.type(ANSWER[index - 1])
        window.wait_for_ghost_text(ANSWER[index:])
    later = [each.items[0] for each in window.recording.exchanges() if each.items and each.sent > began]
    assert set(later) <= {asked}  # one text
    assert before != ""
    assert settled(engine_environment) == before
    window.press("Tab")
    window.save(window.folder / "main.py", PERIMETER + "    return width * height")


def test_candidates_are_cycled(open_workbench: Opening) -> None:
    window = open_workbench()
    ask(window)
    window.press("Alt+BracketRight")
    other = until(lambda: (text := window.ghost_text()) not in ("", ANSWER) and text, "another suggestion")
    asked = [each for each in window.recording.exchanges() if each.invoked]
    assert asked
    assert len(asked[-1].items or []) > 1
    window.press("Alt+BracketLeft")
    window.wait_for_ghost_text(ANSWER)
    assert other != ANSWER


def test_a_block_of_several_lines_is_accepted_whole(open_workbench: Opening) -> None:
    window = open_workbench(
        {"main.py": f"{BLOCK}def write_lines(path, lines):\n"}, settings={"treeline.deadlineMs": 60_000}
    )
    window.wait_until_ready()
    window.type("    with ")
    shown = until(lambda: "\n" in (text := window.wait_for_ghost()) and text, "a suggestion of several lines")
    lines = shown.split("\n")
    assert lines[0].startswith("open(path")
    assert all(line.startswith(" " * 8) for line in lines[1:])
    window.press("Tab")
    window.save(window.folder / "main.py", f"def write_lines(path, lines):\n    with {shown}")


@pytest.mark.parametrize(
    "line", ['    größe = "é"; return', '    face = "\N{GRINNING FACE}"; return'], ids=["accents", "two code units"]
)
def test_other_alphabets_stand_before_the_cursor(open_workbench: Opening, line: str) -> None:
    window = open_workbench({"main.py": PERIMETER + line.removesuffix(" return")})
    window.wait_until_ready()
    window.type(" return")
    shown = window.wait_for_ghost()
    assert "\n" not in shown
    window.press("Tab")
    window.save(window.folder / "main.py", PERIMETER + line + shown)


def test_an_untitled_file_is_completed(open_workbench: Opening) -> None:
    window = open_workbench(show=None)
    window.command("Treeline: Try It in a Sample File")
    expect(window.editor).to_be_visible()
    window.wait_until_ready()
    until(lambda: [each for each in opened(window) if each.startswith("untitled:")], "the server to know the file")
    window.type("return")
    window.command("Trigger Inline Suggestion")  # a new editor may learn of the provider after the last key
    assert window.wait_for_ghost()
    assert window.recording.exchanges()[-1].uri.startswith("untitled:")


def test_earlier_cells_of_a_notebook_count(open_workbench: Opening) -> None:
    cells = [
        {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": text.splitlines(True)}
        for text in ("def area(width, height):\n    return width * height", "area")
    ]
    notebook = {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    window = open_workbench({"book.ipynb": json.dumps(notebook)}, show=None)
    window.open("book.ipynb", text=False)
    cell = window.page.locator(".notebookOverlay .code-cell-row .monaco-editor").nth(1)
    expect(cell).to_be_visible()
    cell.click()
    window.press("Control+End")
    window.type("(")
    until(lambda: [each for each in window.recording.exchanges() if each.items], "a suggestion in a cell")
    assert window.recording.exchanges()[-1].uri.startswith("vscode-notebook-cell:")
    assert window.recording.sent("notebookDocument/didOpen")
    assert window.wait_for_ghost()
