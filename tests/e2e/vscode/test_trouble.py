"""Servers that are restarted, killed, broken or missing."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from playwright.sync_api import expect

from tests.e2e.vscode.conftest import PERIMETER, Opening
from tests.e2e.vscode.recording import until
from tests.e2e.vscode.test_suggestions import ask


def test_restarting(open_workbench: Opening) -> None:
    window = open_workbench()
    window.wait_until_ready()
    (first,) = window.recording.servers()
    window.command("Treeline: Restart")
    until(lambda: len(window.recording.servers()) == 2, "another server")
    until(lambda: not Path(f"/proc/{first}").exists(), "the end of the first server")
    window.focus()
    ask(window)


def test_a_killed_server_comes_back_and_completes(open_workbench: Opening) -> None:
    window = open_workbench()
    ask(window)
    window.press("Escape")
    (first,) = window.recording.servers()
    os.kill(first, signal.SIGKILL)
    until(lambda: len(window.recording.servers()) == 2, "another server")
    window.wait_until_ready()
    window.press("Enter")
    window.type("return")
    assert window.wait_for_ghost()
    assert window.messages() == []  # nobody was bothered


def test_a_server_that_always_crashes_is_given_up(open_workbench: Opening, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import sys\nif '--version' in sys.argv:\n    print('treeline-lsp 0.1.0')\nelse:\n    sys.exit('no')\n"
    )
    window = open_workbench(machine={"treeline.serverCommand": [sys.executable, str(broken)]})
    message = window.notification("has crashed 5 times")
    expect(message).to_be_visible(timeout=120_000)
    window.wait_for_summary("crashed 5 times")
    (only,) = window.messages()  # of each start that fails, nothing is said
    assert "has crashed 5 times" in only
    window.page.locator(".notifications-center").get_by_role("button", name="Show Logs").click()
    expect(window.page.locator(".panel .monaco-editor")).to_contain_text("no")


def test_a_server_that_hangs_while_it_starts_can_be_restarted(open_workbench: Opening, tmp_path: Path) -> None:
    hanging, starts = tmp_path / "hanging.py", tmp_path / "starts"
    hanging.write_text(
        f"import os, sys\nif '--version' in sys.argv:\n    print('treeline-lsp 0.1.0')\nelse:\n"
        f"    open({str(starts)!r}, 'a').write(f'{{os.getpid()}}\\n')\n    sys.stdin.read()\n"
    )
    window = open_workbench(machine={"treeline.serverCommand": [sys.executable, str(hanging)]})
    until(starts.exists, "the first start")
    window.command("Treeline: Restart")
    first, _ = until(lambda: len(both := starts.read_text().split()) == 2 and both, "the second start")
    until(lambda: not Path(f"/proc/{first}").exists(), "the end of the first server")


def test_nothing_of_a_folder_runs_in_restricted_mode(open_workbench: Opening, tmp_path: Path) -> None:
    path = os.pathsep.join(
        ["", str(Path(sys.executable).parent), os.environ["PATH"]]
    )  # the empty entry: where it starts
    files = {"main.py": PERIMETER, "treeline-lsp": f"#!/bin/sh\ntouch {tmp_path}/ran\n"}
    window = open_workbench(files, machine={}, environment={"PATH": path}, trusted=False)
    window.wait_until_ready()
    assert not (tmp_path / "ran").exists()


def test_a_missing_server_is_said_with_help(open_workbench: Opening) -> None:
    window = open_workbench(machine={"treeline.serverCommand": ["/nowhere/treeline-lsp"]})
    message = window.notification("Treeline's server was not found")
    expect(message).to_be_visible()
    assert window.summary() == "the server was not found"
    for name in ("Install", "Show Logs"):
        expect(message.get_by_role("button", name=name)).to_be_visible()
    message.get_by_role("button", name="Open Settings").click()
    expect(window.page.locator(".settings-editor")).to_contain_text("Treeline: Enabled")


def test_a_server_of_another_version_is_used_and_ours_offered(open_workbench: Opening, tmp_path: Path) -> None:
    real = Path(sys.executable).with_name("treeline-lsp")
    other = tmp_path / "bin" / "treeline-lsp"
    other.parent.mkdir()
    other.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo treeline-lsp 0.9.0 && exit\nexec {real} "$@"\n')
    other.chmod(0o755)
    window = open_workbench(machine={}, environment={"PATH": os.pathsep.join([str(other.parent), os.environ["PATH"]])})
    message = window.notification("has version 0.9.0")
    expect(message.get_by_role("button", name="Install")).to_be_visible()
    ask(window)


def test_a_relative_command_is_in_the_folder(open_workbench: Opening) -> None:
    real = Path(sys.executable).with_name("treeline-lsp")
    files = {"main.py": PERIMETER, "bin/lsp": f'#!/bin/sh\nexec {real} "$@"\n'}
    window = open_workbench(files, machine={"treeline.serverCommand": ["bin/lsp"]})
    ask(window)


def test_restricted_mode_until_the_folder_is_trusted(open_workbench: Opening) -> None:
    files = {
        "main.py": PERIMETER,
        ".vscode/settings.json": json.dumps({"treeline.serverCommand": ["/folder/names/this"]}),
    }
    window = open_workbench(files, trusted=False)
    ask(window)  # by the machine's server, not by the folder's
    (initialize,) = window.recording.sent("initialize")
    assert initialize["initializationOptions"]["trusted"] is False
    assert window.recording.sent("treeline/trusted") == []
    window.command("Workspaces: Manage Workspace Trust")
    window.page.get_by_role("button", name="Trust", exact=True).click()
    expect(window.notification("Treeline's server was not found")).to_be_visible()  # the folder's counts now
