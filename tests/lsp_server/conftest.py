"""Workspaces, engines and sessions that several test modules share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsp_server.context import ContextBuilder
from lsp_server.exclusions import Exclusions
from tests.lsp_server.ignore_trees import git
from tests.lsp_server.open_file import OpenFile
from tests.lsp_server.rpc import Client, initialize, launch
from tests.lsp_server.scripted_engine import ScriptedEngine, scripted_engine
from tests.server.serving import private


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, in a folder where nobody's own ignore files count."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


@pytest.fixture
def builder(root: Path) -> ContextBuilder:
    """What of the repository is shown."""
    return ContextBuilder(Exclusions([root]))


@pytest.fixture(scope="session")
def scripted_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedEngine]:
    """An engine that says what it is told to."""
    with scripted_engine(tmp_path_factory.mktemp("scripted")) as engine:
        yield engine


@pytest.fixture
def scripted(scripted_server: ScriptedEngine) -> ScriptedEngine:
    """The same, as if it were new."""
    scripted_server.says("text")
    return scripted_server


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, scripted_server: ScriptedEngine) -> dict[str, str]:
    """For language servers that ask the scripted engine."""
    return private(tmp_path_factory.mktemp("lsp") / "run") | {"TREELINE_CONFIG": str(scripted_server.config)}


@pytest.fixture(scope="session", params=["stdio", "tcp"])
def session(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Client]:
    """A session that many tests share, over each transport."""
    with launch(environment, transport=request.param) as client:
        initialize(client)
        client.notified("treeline/status", lambda status: status["state"] == "ready")
        yield client


@pytest.fixture
def file(session: Client, scripted: ScriptedEngine) -> Iterator[OpenFile]:
    """A document of that session, which nobody has opened yet."""
    opened = OpenFile(session, f"file:///nowhere/{uuid.uuid4()}.py")
    yield opened
    opened.close()


@pytest.fixture
def fresh(environment: dict[str, str], scripted: ScriptedEngine) -> Iterator[Client]:
    """A server of the test's own, to which nothing has been said yet."""
    with launch(environment) as client:
        yield client
