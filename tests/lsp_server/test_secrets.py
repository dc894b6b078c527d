"""What is secret, ignored or foreign never reaches a prompt, a log or the engine, whatever is opened and done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lsp_server.documents import put
from tests.lsp_server.ignore_trees import git
from tests.lsp_server.open_file import OpenFile, explain
from tests.lsp_server.rpc import Client, initialize, launch
from tests.lsp_server.scripted_engine import ScriptedEngine
from tests.server.serving import private_daemons

CANARY = "canary_0815"
CODE = f"def {CANARY}(value):\n    return '{CANARY}' + value\n\n\n{CANARY}_TOKEN = '{CANARY}'\n"
SECRET = [".env", ".env.local", "certificates/server.pem", "id_rsa", "ignored.py", "hidden/deep/module.py", "mine.py"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with secrets in it and beside it."""
    root = tmp_path / "work"
    root.mkdir()
    git(root, "init", "-q")
    put(root / ".gitignore", "ignored.py\nhidden/\n")
    put(root / ".treelineignore", "mine.py\n")
    for name in SECRET:
        put(root / name, CODE)
    put(tmp_path / "outside" / "foreign.py", CODE)
    put(root / "helper.py", "def helper(value):\n    return value + 1\n")
    put(root / "main.py", "import helper, ignored, mine\nfrom hidden.deep import module\n\n\n")
    return root


@pytest.fixture
def client(root: Path, environment: dict[str, str]) -> Iterator[Client]:
    """A session in that repository, with all that is ever logged."""
    with launch(environment, ["--log-level", "debug"]) as client:
        initialize(client, root)
        client.notified("treeline/status", lambda status: status["state"] == "ready")
        yield client


def opened(client: Client, path: Path) -> OpenFile:
    file = OpenFile(client, path.as_uri())
    file.open(path.read_text())
    return file


def work_everywhere(client: Client, root: Path) -> list[OpenFile]:
    """Open, edit, save and complete in secrets and, between them, in a neighbour; return the secrets."""
    main = opened(client, root / "main.py")
    secrets = [opened(client, root / name) for name in SECRET]
    foreign = opened(client, root.parent / "outside" / "foreign.py")
    for number, file in enumerate([*secrets, foreign]):
        file.change(((2, 0), (2, 0), f"{CANARY}_{number} = '{CANARY}'\n"))
        client.notify("textDocument/didSave", {"textDocument": {"uri": file.uri}})
        main.change(((2, 0), (2, 0), f"row_{number} = 1\n"))
        main.complete((3, 0))
        if file is not foreign:
            assert file.complete((2, 0)) == []
            assert file.reason() == "excluded"
            assert file.complete((2, 0), kind=2) == []
        file.close()
        main.complete((3, 0), kind=2)
    return secrets


def test_no_secret_reaches_the_engine_or_the_log(client: Client, root: Path, scripted: ScriptedEngine) -> None:
    scripted.says("text")
    secrets = work_everywhere(client, root)
    asked = [each.prompt for each in scripted.asked]
    assert len(asked) >= len(SECRET)
    assert any("row_1" in prompt for prompt in asked)
    assert CANARY not in scripted.prompts
    uris = {each.uri for each in secrets}
    reasons = {(each["reason"], each["detail"]) for each in explain(client)["recent"] if each["uri"] in uris}
    assert {reason for reason, _ in reasons} == {"excluded"}
    assert CANARY not in str(explain(client))
    client.request("shutdown")
    client.notify("exit")
    client.finish()
    assert CANARY not in "\n".join(client.log)


def test_a_file_that_holds_a_key_is_left_alone(client: Client, root: Path, scripted: ScriptedEngine) -> None:
    lines = "-----BEGIN PRIVATE KEY-----\n" + f"{CANARY}\n" + "-----END PRIVATE KEY-----\n"
    file = opened(client, put(root / "notes.txt", lines))
    assert file.complete((1, 3)) == []
    assert file.reason() == "excluded"
    assert not scripted.asked
    file.change("plain = ")
    assert file.complete()
    assert file.reason() == "answered"


def test_a_file_that_becomes_ignored_is_left_alone(client: Client, root: Path, scripted: ScriptedEngine) -> None:
    file = opened(client, put(root / "late.py", "late = "))
    assert file.complete()
    put(root / ".gitignore", "late.py\n")
    client.notify("textDocument/didSave", {"textDocument": {"uri": (root / ".gitignore").as_uri()}})
    assert file.complete() == []
    assert file.reason() == "excluded"


def test_a_foreign_file_is_completed_in_but_not_shown(client: Client, root: Path, scripted: ScriptedEngine) -> None:
    foreign = opened(client, root.parent / "outside" / "foreign.py")
    assert foreign.complete()
    assert CANARY in scripted.asked[-1].prompt
    main = opened(client, root / "main.py")
    assert main.complete()
    assert CANARY not in scripted.asked[-1].prompt


def test_no_secret_reaches_the_daemon(root: Path, tmp_path: Path) -> None:
    short = Path("/tmp") / f"tl-{root.stat().st_ino}"  # sockets have short names only
    try:
        with private_daemons(short) as environment, launch(environment, ["--log-level", "debug"]) as client:
            initialize(client, root)
            client.notified("treeline/status", lambda status: status["state"] == "ready")
            work_everywhere(client, root)
            requests = client.request("workspace/executeCommand", {"command": "treeline.server.statistics"})["requests"]
            assert requests["answered"] + requests.get("nothing", 0) >= 1
            logs = list(short.glob("*.log"))
            assert logs
            assert not [path for path in logs if CANARY in path.read_text(errors="replace")]
            assert CANARY not in "\n".join(client.log)
    finally:
        shutil.rmtree(short, ignore_errors=True)
