"""A window for scripts, which have no fixtures."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.e2e.vscode.code_server import CHROMIUM, ROOT, code_server, install, missing
from tests.e2e.vscode.conftest import FLAGS, recorded
from tests.e2e.vscode.recording import Recording
from tests.e2e.vscode.workbench import Workbench
from tests.server.serving import private_daemons

PACKAGE = "treeline-vscode-*.vsix"


def obstacle() -> str:
    """Say why no window can be opened, if so."""
    return missing() or ("" if list((ROOT / "dist").glob(PACKAGE)) else "the extension is not packaged: make vsix")


@contextmanager
def one_window(
    files: Mapping[str, str], settings: Mapping[str, Any], size: tuple[int, int] = (1100, 640), script: str = ""
) -> Iterator[Workbench]:
    """Open the first of `files` in a window of that size, with an engine of its own; `script` runs in the page."""
    place = Path(tempfile.mkdtemp(prefix="treeline-window-"))
    folder = place / "window" / "shapes"
    (folder / ".git").mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    recording = Recording(place / "messages.jsonl")
    machine = {"treeline.serverCommand": recorded(recording)}
    with private_daemons(place / "engines") as own, sync_playwright() as playwright:
        extensions = install(place / "installed", max((ROOT / "dist").glob(PACKAGE)))
        with code_server(place / "window", extensions, {**os.environ, **own}, settings, machine) as server:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
            page = browser.new_page(viewport={"width": size[0], "height": size[1]}, locale="en-US")
            if script:
                page.add_init_script(script)
            window = Workbench(page, server, folder, recording)
            window.load(folder / next(iter(files)))
            yield window
            browser.close()
    shutil.rmtree(place, ignore_errors=True)
