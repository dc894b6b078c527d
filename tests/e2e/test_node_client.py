"""The reference implementation's client, in Node.js, talks to the server: nothing of either is ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.lsp_server.open_file import span
from tests.lsp_server.scripted_engine import Asked, Pause, ScriptedEngine, scripted_engine
from tests.server.serving import private

FOLDER = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def node_modules() -> None:
    """What `npm ci` installs, as the lock file has it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no node, or no npm")
    mark = FOLDER / "node_modules" / ".package-lock.json"
    if not mark.exists() or mark.stat().st_mtime < (FOLDER / "package-lock.json").stat().st_mtime:
        command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=FOLDER, check=True, timeout=300)
        mark.touch()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedEngine]:
    def script(asked: Asked) -> list[Any]:
        return [Pause()] if "slow" in asked.prompt else ["range(3)"]

    with scripted_engine(tmp_path_factory.mktemp("e2e")) as engine:
        engine.script = script
        yield engine


@pytest.fixture(scope="module")
def seen(node_modules: None, engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client has seen in one session."""
    environment = private(tmp_path_factory.mktemp("run") / "run") | {"TREELINE_CONFIG": str(engine.config)}
    command = ["node", str(FOLDER / "client.js"), sys.executable, "-I", "-m", "lsp_server"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_capabilities(seen: dict[str, Any]) -> None:
    able = seen["initialize"]["capabilities"]
    assert able["inlineCompletionProvider"] == {}
    assert able["positionEncoding"] == "utf-16"
    assert able["notebookDocumentSync"]["notebookSelector"] == [{"notebook": "*"}]


def test_inline_completion(seen: dict[str, Any]) -> None:
    assert seen["invoked"]["items"][0]["insertText"] == "range(3)"
    assert seen["invoked"]["items"][0]["range"] == span((0, 11), (0, 11))
    assert seen["automatic"]["items"][0]["range"] == span((1, 7), (1, 7))
    assert seen["isItem"] is True
    assert seen["afterClose"] == {"items": []}


def test_cancellation(seen: dict[str, Any], engine: ScriptedEngine) -> None:
    assert seen["cancelled"] == -32800
    for asked in engine.asked:
        if "slow" in asked.prompt:
            assert asked.gone.wait(30)


def test_errors(seen: dict[str, Any]) -> None:
    assert seen["unknown"] == -32601
    assert seen["undecodable"] == -32602
    assert seen["afterShutdown"] == -32600
    assert seen["errors"] == []


def test_configuration_status_and_commands(seen: dict[str, Any]) -> None:
    assert seen["configuration"] == 1
    assert [state for state, _ in groupby(status["state"] for status in seen["statuses"])] == ["starting", "ready"]
    assert seen["explained"]["latest"]["reason"] == "cancelled"


def test_the_end(seen: dict[str, Any]) -> None:
    assert seen["shutdown"] is None
    assert seen["exit"] == 0
