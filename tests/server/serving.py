"""Real servers for tests, each in a runtime folder of its own and ended with the test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.launch import running, stop

TOKEN = "a-token-for-tests"


def private(folder: Path) -> dict[str, str]:
    """An environment whose daemons nobody else sees, and which sees nobody else's."""
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TREELINE_") or "KERNELS" in name}
    kept.pop("XDG_CONFIG_HOME", None)
    return kept | {"TREELINE_RUNTIME_DIR": str(folder), "XDG_CONFIG_HOME": str(folder / "no-config")}


@contextmanager
def private_daemons(folder: Path) -> Iterator[dict[str, str]]:
    """Such an environment; daemons that were started in it are ended."""
    environment = private(folder)
    try:
        yield environment
    finally:
        for daemon in list(running(environment)):
            stop(daemon.pid, daemon.files)


@dataclass(frozen=True, slots=True)
class Served:
    """A `treeline serve` with a port. `log` is its log file's folder."""

    process: subprocess.Popen[str]
    url: str
    environment: dict[str, str]

    @property
    def headers(self) -> dict[str, str]:
        """What a client must send."""
        return {"Authorization": f"Bearer {TOKEN}"}

    def log(self) -> str:
        """What it has logged."""
        folder = Path(self.environment["TREELINE_RUNTIME_DIR"])
        return "".join(path.read_text() for path in folder.glob("*.log"))


@contextmanager
def serve(folder: Path, arguments: Sequence[str] = (), ready: bool = True) -> Iterator[Served]:
    """Run `treeline serve` on a free port; `ready`: wait until its model is loaded."""
    environment = private(folder) | {"TREELINE_TOKEN": TOKEN}
    command = [sys.executable, "-m", "engine", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+:\d+", line)
        assert found, line
        served = Served(process, found[0], environment)
        if ready:
            wait_until_ready(served)
        yield served
    finally:
        process.terminate()
        process.wait(30)
        if process.stderr is not None:
            process.stderr.close()


def wait_until_ready(served: Served) -> None:
    """Return once the model is loaded."""
    import httpx

    with httpx.stream(
        "GET", f"{served.url}/progress", headers=served.headers | {"Accept": "text/event-stream"}, timeout=120
    ) as response:
        last = list(response.iter_lines())[-2]
    assert '"ready"' in last, last
