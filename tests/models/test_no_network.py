"""Everything but `models pull` runs where no connection leaves the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import private_daemons

ROOT = Path(__file__).parents[2]

# Read by every Python process that is started with this folder on its path, the daemon too.
GUARD = """
import os, socket, sys

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and arguments[0].family != socket.AF_UNIX:
        host = arguments[1][0] if arguments[1] else None
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        with open(os.environ["WENT_OUT"], "a") as log:
            print(event, host, file=log)
        raise ConnectionRefusedError(f"no network: {host}")

sys.addaudithook(watch)
"""
CASE = {"id": "1", "language": "python", "path": "a.py", "prefix": "x = [", "suffix": "", "expected": "]"}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment without a network, and without a variable that tells libraries so."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    with private_daemons(tmp_path / "run") as environment:
        kept = {name: value for name, value in environment.items() if not name.startswith("HF_")}
        kept["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "guard"), str(ROOT)])
        yield kept | {"HF_HOME": str(tmp_path / "home"), "WENT_OUT": str(tmp_path / "went-out")}


def run(alone: dict[str, str], *arguments: str, text: str = "") -> str:
    command = [sys.executable, "-m", "engine", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=alone, input=text, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guard_notices_whoever_goes_out(alone: dict[str, str]) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 9), 1)"
    done = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True)
    assert "no network: 192.0.2.1" in done.stderr
    assert "192.0.2.1" in Path(alone["WENT_OUT"]).read_text()


def test_commands_stay_on_the_machine(alone: dict[str, str], tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps(CASE))
    with_daemon = run(alone, "complete", "-", "--max-tokens", "4", text="def area(width, height):\n    return ")
    assert run(alone, "serve", "status").startswith("bundled: ")
    without = run(
        alone, "complete", "-", "--max-tokens", "4", "--no-daemon", text="def area(width, height):\n    return "
    )
    assert with_daemon == without
    assert json.loads(run(alone, "bench", "decode", "--cases", str(cases), "--max-tokens", "4", "--json"))["cases"] == 1
    assert "bundled" in run(alone, "models", "list")
    assert run(alone, "models", "path", "bundled").strip().endswith("target")
    assert not Path(alone["WENT_OUT"]).exists()
