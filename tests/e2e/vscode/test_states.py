"""What the status item says, and what switches suggestions off and on."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from playwright.sync_api import expect

from tests.e2e.vscode.code_server import processes
from tests.e2e.vscode.conftest import PERIMETER, Opening
from tests.e2e.vscode.recording import until
from tests.e2e.vscode.test_suggestions import ANSWER, ask, opened
from tests.e2e.vscode.workbench import Workbench
from tests.server.serving import private_daemons


def type_for_nothing(window: Workbench, text: str = "    return") -> None:
    """Ask where nothing is to be answered; return when that has been answered."""
    before = len(window.recording.exchanges())
    window.type(text)
    until(lambda: len(window.recording.exchanges()) > before, "an answer")
    assert {tuple(each.items or []) for each in window.recording.exchanges()[before:]} == {()}
    assert window.ghost_text() == ""


def test_the_states_of_a_start(open_workbench: Opening, tmp_path: Path) -> None:
    with private_daemons(tmp_path / "daemons") as environment:
        slow = {"TREELINE_THREADS": "1"}  # and a long file: what is over in 50 ms is not told
        window = open_workbench({"main.py": 30 * PERIMETER}, environment={**environment, **slow})
        window.wait_until_ready()
        window.type("    return")
        window.wait_for_ghost()
        until(lambda: [each for each in window.recording.statuses() if each["busy"]], "work")
        window.wait_until_ready()
        said = window.said()
        window.page.close()
    assert any("Treeline: starting the server" in each for each in said)
    assert any("Treeline: starting the engine" in each for each in said)
    assert any("Treeline: the model is working" in each for each in said)
    statuses = window.recording.statuses()
    kinds = [each["state"] for each in statuses if each["state"] != "loading"]
    assert list(dict.fromkeys(kinds)) == ["starting", "ready"]
    if any(each["state"] == "loading" and each["total"] for each in statuses):  # so small a model may be there at once
        percent = r"Treeline \d+% \| Treeline: loading \w+: layer \d+ of \d+"
        assert any(re.fullmatch(percent, each) for each in said), said


def test_pausing_and_going_on(open_workbench: Opening) -> None:
    window = open_workbench()
    window.wait_until_ready()
    window.command("Treeline: Toggle Suggestions")
    window.wait_for_summary("^paused")
    assert window.server.settings()["treeline.enabled"] is False
    window.focus()
    type_for_nothing(window)
    window.command("Treeline: Toggle Suggestions")
    window.wait_until_ready()
    assert window.server.settings()["treeline.enabled"] is True
    window.focus()
    window.type(" ")
    assert window.wait_for_ghost()


def test_a_language_is_switched_off(open_workbench: Opening) -> None:
    window = open_workbench()
    window.wait_until_ready()
    window.command("Treeline: Toggle Suggestions for This Language")
    window.wait_for_summary("^disabled for python$")
    window.focus()
    type_for_nothing(window)
    assert window.server.settings()["treeline.disabledLanguages"] == ["python"]


def test_settings_take_effect_without_a_restart(open_workbench: Opening) -> None:
    window = open_workbench()
    ask(window)
    window.press("Escape")
    (server,) = window.recording.servers()
    window.write_settings(treeline__disabledLanguages=["python"])
    window.wait_for_summary("^disabled for python$")
    type_for_nothing(window, " ")
    window.press("Backspace")
    window.write_settings(treeline__disabledLanguages=[])
    window.wait_until_ready()
    window.type(" ")
    assert window.wait_for_ghost()
    assert window.recording.servers() == [server]


def test_the_menu_is_behind_the_status_item(open_workbench: Opening) -> None:
    window = open_workbench()
    window.wait_until_ready()
    window.status.click()
    rows = window.page.locator(".quick-input-list .monaco-list-row")
    expect(rows.filter(has_text="Why no suggestion?")).to_be_visible()
    rows.filter(has_text="Snooze suggestions").or_(rows.filter(has_text="End the snooze")).first.wait_for()
    rows.filter(has_text="Pause suggestions").click()
    window.wait_for_summary("^paused")
    window.focus()


def test_the_menu_asks_for_a_suggestion(open_workbench: Opening) -> None:
    window = open_workbench({"main.py": f"{PERIMETER}    return"})
    window.wait_until_ready()
    window.status.click()
    window.page.locator(".quick-input-list .monaco-list-row").filter(has_text="Suggest here, now").click()
    window.wait_for_ghost_text(ANSWER)


def test_statistics_count_what_was_accepted(open_workbench: Opening) -> None:
    window = open_workbench()
    ask(window)
    window.press("Tab")
    window.wait_for_no_ghost()
    window.command("Treeline: Show Statistics")
    page = window.page.frame_locator("iframe.webview").frame_locator("#active-frame")
    row = page.locator("tr").filter(has_text="Characters accepted")
    expect(row).to_contain_text(str(len(ANSWER)))
    expect(page.locator("tr").filter(has_text=re.compile("^Model"))).to_contain_text("bundled")


def test_accepted_words_are_one_suggestion_and_the_statistics_one_page(open_workbench: Opening) -> None:
    window = open_workbench()
    ask(window)
    for left in ("width * height", " * height"):
        window.press("Control+ArrowRight")
        window.wait_for_ghost_text(left)
    for _ in range(2):
        window.command("Treeline: Show Statistics")
        page = window.page.frame_locator("iframe.webview").frame_locator("#active-frame")
        expect(page.locator("tr").filter(has_text="Accepted of those shown")).to_contain_text("1 of 1 (100%)")
    expect(window.page.locator(".tab").filter(has_text="Treeline Statistics")).to_have_count(1)


def test_why_there_is_nothing_while_it_is_switched_off(open_workbench: Opening) -> None:
    window = open_workbench()
    ask(window)
    window.press("Escape")
    window.command("Treeline: Toggle Suggestions")
    window.wait_for_summary("^paused")
    window.command("Treeline: Why No Suggestion?")
    expect(window.notification("Suggestions are paused")).to_be_visible()
    window = open_workbench(settings={"editor.inlineSuggest.enabled": False})
    window.wait_until_ready()
    window.command("Treeline: Why No Suggestion?")
    expect(window.notification("editor.inlineSuggest.enabled is off")).to_be_visible()


def test_the_first_steps_know_that_the_server_was_found(open_workbench: Opening) -> None:
    window = open_workbench()
    window.wait_until_ready()
    window.command("Treeline: First Steps")
    steps = window.page.get_by_role("checkbox")
    expect(steps.and_(window.page.get_by_label("Get the server: Completed"))).to_be_visible()
    expect(steps.and_(window.page.get_by_label("Choose a model: Not completed"))).to_be_visible()


def test_a_secret_file_is_left_alone_and_that_is_said(open_workbench: Opening) -> None:
    window = open_workbench({"main.py": PERIMETER, ".env": "TOKEN=abc\nOTHER_TOKEN"}, show=".env")
    window.wait_until_ready()
    window.type("=")
    until(lambda: window.recording.exchanges(), "an answer")
    assert [each.items for each in window.recording.exchanges()] == [[]]
    assert not [each for each in window.recording.statuses() if each["busy"]]  # the engine was not asked
    window.command("Treeline: Why No Suggestion?")
    expect(window.notification("Treeline does not read this file")).to_be_visible()


def test_a_very_large_file_is_kept_from_the_server(open_workbench: Opening) -> None:
    window = open_workbench({"main.py": "x = 1\n" * 120_000, "other.py": PERIMETER})
    window.wait_for_summary("^idle")
    window.type("y = ")
    window.command("Treeline: Why No Suggestion?")
    expect(window.notification("very large")).to_be_visible()
    window.open("other.py")
    ask(window)  # what was said of the large file would have come before this
    assert [uri for uri in opened(window) if uri.endswith("main.py")] == []
    changed = [each["textDocument"]["uri"] for each in window.recording.sent("textDocument/didChange")]
    assert changed
    assert [uri for uri in changed if uri.endswith("main.py")] == []
    assert [each for each in window.recording.exchanges() if each.uri.endswith("main.py")] == []


def test_two_windows_share_one_engine(open_workbench: Opening, engine_environment: dict[str, str]) -> None:
    for window in (open_workbench(), open_workbench()):
        window.page.bring_to_front()
        ask(window)
    assert len(processes("lsp_server", engine_environment)) == 4  # each with its recorder
    assert len(processes("engine.server.daemon", engine_environment)) == 1


def test_the_server_on_the_path_is_found(open_workbench: Opening, engine_environment: dict[str, str]) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    window = open_workbench(machine={}, environment={"PATH": path})
    ask(window)
    (server,) = [Path(f"/proc/{each}/cmdline").read_bytes() for each in processes("treeline-lsp", engine_environment)]
    assert os.fsencode(Path(sys.executable).parent / "treeline-lsp") in server.split(b"\0")


def test_a_model_is_picked_for_all_editors(open_workbench: Opening, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with private_daemons(tmp_path / "daemons") as environment:
        given = {**environment, "PATH": path, "XDG_CONFIG_HOME": str(tmp_path / "config")}
        window = open_workbench(machine={}, environment=given)
        window.wait_until_ready()
        window.command("Treeline: Pick Model")
        row = window.page.locator(".quick-input-list .monaco-list-row").filter(has_text="bundled").first
        expect(row).to_be_visible()
        before = len(window.said())
        row.click()
        file = tmp_path / "config" / "treeline" / "config.toml"
        until(file.exists, "the configuration")
        assert file.read_text() == 'model = "bundled"\n'
        until(lambda: any("starting" in each or "loading" in each for each in window.said()[before:]), "a new engine")
        window.wait_until_ready()
        window.focus()
        window.type("    return")
        window.wait_for_ghost_text(ANSWER)
        window.page.close()
