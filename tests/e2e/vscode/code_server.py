"""VS Code's own workbench, served to a browser by code-server: where it is, and starting and ending it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
HOME = Path(os.environ.get("TREELINE_E2E", ROOT / ".e2e"))  # where `make e2e-setup` has put it
ENTRY = HOME / "node_modules" / "code-server" / "out" / "node" / "entry.js"
NODE = Path(sys.executable).with_name("node")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
START_SECONDS = 90

QUIET: Mapping[str, Any] = {
    "chat.disableAIFeatures": True,
    "editor.quickSuggestions": {"other": "off", "comments": "off", "strings": "off"},
    "editor.parameterHints.enabled": False,
    "editor.wordBasedSuggestions": "off",
    "editor.autoClosingBrackets": "never",
    "editor.minimap.enabled": False,
    "editor.inlineSuggest.enabled": True,
    "extensions.ignoreRecommendations": True,
    "files.autoSave": "off",
    "files.hotExit": "off",
    "security.workspace.trust.startupPrompt": "never",
    "telemetry.telemetryLevel": "off",
    "window.confirmBeforeClose": "never",
    "workbench.editor.useModal": "off",
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
}


def missing() -> str:
    """Say what is missing on this machine, if anything is."""
    if CHROMIUM is None:
        return "Chromium is not installed (on Debian: apt install chromium fonts-dejavu-core)"
    if not NODE.exists():
        return f"{NODE} is missing: make e2e-setup"
    if not ENTRY.exists():
        return f"code-server is not in {HOME}: make e2e-setup"
    return ""


@dataclass(frozen=True, slots=True)
class CodeServer:
    """One that runs. `data`: its user data."""

    url: str
    process: subprocess.Popen[bytes]
    data: Path

    @property
    def settings_file(self) -> Path:
        """The user's settings."""
        return self.data / "User" / "settings.json"

    def settings(self) -> dict[str, Any]:
        """Return the user's settings, as they are on disk."""
        return json.loads(self.settings_file.read_text())


@contextmanager
def code_server(
    folder: Path,
    extensions: Path,
    environment: Mapping[str, str],
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
    flags: Sequence[str] = ("--disable-workspace-trust",),
) -> Iterator[CodeServer]:
    """Serve a workbench with fresh user data in `folder`; end it, and all that it has started."""
    data = folder / "user-data"
    for name, content in (("User", {**QUIET, **settings}), ("Machine", machine)):
        (data / name).mkdir(parents=True)
        (data / name / "settings.json").write_text(json.dumps(content))
    port = free_port()
    process = subprocess.Popen(
        [*command(data, extensions), "--bind-addr", f"127.0.0.1:{port}", "--auth", "none", *QUIETLY, *flags],
        env={
            **environment,
            "EXTENSIONS_GALLERY": "{}",
            "VSCODE_CLI": "1",
        },  # PATH as it is, not as a login shell has it
        stdout=(folder / "code-server.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    server = CodeServer(f"http://127.0.0.1:{port}", process, data)
    try:
        wait_for(server, folder / "code-server.log")
        yield server
    finally:
        end(process)


QUIETLY = (
    "--disable-telemetry",
    "--disable-update-check",
    "--disable-getting-started-override",
    "--reconnection-grace-time",
    "5",
)


def command(data: Path, extensions: Path) -> list[str]:
    """Return how code-server is called with these folders."""
    places = ["--user-data-dir", str(data), "--extensions-dir", str(extensions), "--config", str(data / "config.yaml")]
    return [str(NODE), str(ENTRY), *places]


def install(folder: Path, *files: Path) -> Path:
    """Install extensions from their files into a folder of extensions of its own, and return that."""
    extensions = folder / "extensions"
    environment = {**os.environ, "EXTENSIONS_GALLERY": "{}"}
    (folder / "data").mkdir(parents=True)
    for file in files:
        arguments = [*command(folder / "data", extensions), "--install-extension", str(file)]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return extensions


def wait_for(server: CodeServer, log: Path) -> None:
    """Return when it answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert server.process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{server.url}/healthz", timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and the group."""
    for number, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait(5)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes(word: str, environment: Mapping[str, str]) -> list[int]:
    """Return the processes with `word` in their arguments that belong to the tests of this `environment`."""
    mark = f"TREELINE_RUNTIME_DIR={environment['TREELINE_RUNTIME_DIR']}".encode()
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            theirs = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is somebody else's
            continue
        if any(word in os.fsdecode(each) for each in arguments) and mark in theirs:
            found.append(int(folder.name))
    return found
