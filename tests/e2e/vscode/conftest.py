"""The extension, packaged, in VS Code's workbench, with the bundled pair as its engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import expect

from tests.e2e.vscode.code_server import CHROMIUM, ROOT, code_server, install, missing, processes
from tests.e2e.vscode.recording import Recording, until
from tests.server.serving import private_daemons

PERIMETER = '''def area(width, height):
    """Return the area of a rectangle."""
    return width * height


def perimeter(width, height):
    """Return the perimeter of a rectangle."""
'''
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en-US",
)


expect.set_options(timeout=60_000)  # the machine may be busy


@pytest.fixture(scope="session", autouse=True)
def workbench_is_here() -> None:
    """Say what the tests need, where it is missing; continuous integration has it all."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def vsix() -> Path:
    """The packaged extension of this checkout."""
    done = subprocess.run(["make", "vsix"], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    version = json.loads((ROOT / "vscode-extension" / "package.json").read_text())["version"]
    return ROOT / "dist" / f"treeline-vscode-{version}.vsix"


@pytest.fixture(scope="session")
def extensions(vsix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the extension installed."""
    return install(tmp_path_factory.mktemp("installed"), vsix)


@pytest.fixture(scope="session")
def engine_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment in which the engine is the tests' own: the first window starts it, all share it."""
    with private_daemons(tmp_path_factory.mktemp("engines")) as environment:
        yield environment


@pytest.fixture(scope="module")  # as long as it is open, playwright's event loop runs, and asyncio.run fails
def browser() -> Iterator[Any]:
    """Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


class Opening(Protocol):
    """Opens a window."""

    def __call__(
        self,
        files: dict[str, str] | None = None,
        show: str | None = "main.py",
        settings: dict[str, Any] | None = None,
        machine: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        trusted: bool = True,
    ) -> Any:
        """`files`: of the folder, by name. `show`: the one to open. `machine`: settings, in place of the recorder's."""
        ...


@pytest.fixture
def open_workbench(
    tmp_path: Path, extensions: Path, engine_environment: dict[str, str], browser: Any, request: pytest.FixtureRequest
) -> Iterator[Opening]:
    """Open windows with fresh user data each; afterwards, nothing that they have started is left."""
    from tests.e2e.vscode.workbench import Workbench

    stack = ExitStack()
    opened: list[Workbench] = []

    def opening(
        files: dict[str, str] | None = None,
        show: str | None = "main.py",
        settings: dict[str, Any] | None = None,
        machine: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        trusted: bool = True,
    ) -> Workbench:
        place = tmp_path / f"window{len(opened)}"
        folder = place / "folder"
        (folder / ".git").mkdir(parents=True)
        for name, text in (files or {"main.py": PERIMETER}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                (folder / name).chmod(0o755)
        recording = Recording(place / "messages.jsonl")
        if machine is None:
            machine = {"treeline.serverCommand": recorded(recording)}
        given = {**os.environ, **engine_environment, **(environment or {})}
        settings = {"treeline.deadlineMs": 60_000, **(settings or {})}  # on a busy machine too, suggestions are whole
        flags = ("--disable-workspace-trust",) if trusted else ()
        server = stack.enter_context(code_server(place, extensions, given, settings, machine, flags))
        context = browser.new_context(viewport={"width": 1100, "height": 640}, locale="en-US")
        stack.callback(context.close)
        context.set_default_timeout(60_000)
        workbench = Workbench(context.new_page(), server, folder, recording)
        opened.append(workbench)
        watch_status(workbench.page)
        workbench.load(folder / show if show else None)
        return workbench

    with stack:
        yield opening
        report_failure(request, opened, tmp_path)
    until(lambda: not processes("lsp_server", engine_environment), "language servers end with their windows", 30)


def watch_status(page: Any) -> None:
    """Collect, in the page, what the status item has said since the page was loaded."""
    page.add_init_script("""
        window.treelineSaid = [];
        new MutationObserver(() => {
            const item = document.querySelector("[id='treeline.treeline-vscode.treeline.status'] a");
            const said = item && item.textContent.trim() + " | " + item.getAttribute("aria-label");
            if (said && said !== window.treelineSaid.at(-1)) window.treelineSaid.push(said);
        }).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
    """)


def recorded(recording: Recording) -> list[str]:
    """Return the command of a server whose messages are written down."""
    recorder = Path(__file__).with_name("recorder.py")
    return [sys.executable, str(recorder), str(recording.path), sys.executable, "-I", "-m", "lsp_server"]


def report_failure(request: pytest.FixtureRequest, opened: list[Any], folder: Path) -> None:
    """Keep a picture of each window of a test that has failed."""
    if not getattr(request.node, "failed", False):
        return
    for number, workbench in enumerate(opened):
        if workbench.page.is_closed():
            continue
        picture = folder / f"window{number}.png"
        workbench.page.screenshot(path=picture)
        print(f"window {number}: {picture}; status: {workbench.summary()!r}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Let fixtures know whether the test has failed."""
    outcome: Any = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed  # type: ignore[attr-defined]
