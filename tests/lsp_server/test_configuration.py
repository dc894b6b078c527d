"""Settings, however a client gives them, and the commands and notifications beside completion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lsp_server.open_file import OpenFile, explain
from tests.lsp_server.rpc import CAPABILITIES, REFUSED, Client, initialize, launch
from tests.lsp_server.scripted_engine import ScriptedEngine

PULLING = CAPABILITIES | {"workspace": {"configuration": True}}
REASONS = ("disabled", "answered")


@pytest.fixture
def client(environment: dict[str, str], scripted: ScriptedEngine) -> Iterator[Client]:
    """A server of the test's own."""
    with launch(environment) as client:
        yield client


def reason(client: Client, uri: str, language: str = "python") -> str:
    """Why a request for a new document is answered as it is."""
    file = OpenFile(client, uri)
    file.open(f"{uri.rpartition('/')[2]} = ", language)
    file.complete()
    return file.reason()


def command(client: Client, name: str, *arguments: Any) -> Any:
    return client.request("workspace/executeCommand", {"command": f"treeline.server.{name}", "arguments": arguments})


def ready(client: Client) -> None:
    client.notified("treeline/status", lambda status: status["state"] == "ready")


def test_initialization_options(client: Client) -> None:
    initialize(client, enabled=False)
    ready(client)
    assert reason(client, "file:///a.py") == "disabled"


def test_initialization_options_may_be_a_section(client: Client) -> None:
    initialize(client, treeline={"disabledLanguages": ["lua"]})
    ready(client)
    assert reason(client, "file:///a.lua", "lua") == "disabled"
    assert reason(client, "file:///a.py") == "answered"


@pytest.mark.parametrize("options", [None, [], "x"])
def test_settings_that_say_nothing(client: Client, options: object) -> None:
    params = {"processId": None, "rootUri": None, "capabilities": CAPABILITIES, "initializationOptions": options}
    client.request("initialize", params)
    client.notify("initialized", {})
    ready(client)
    for settings in (options, 5, {}, {"treeline": None}, {"treeline": 5}, {"enabled": None, "debounceMs": None}):
        client.notify("workspace/didChangeConfiguration", {"settings": settings})
    client.notify("workspace/didChangeConfiguration", {})
    assert reason(client, "file:///a.py") == "answered"


def test_settings_that_are_sent(client: Client) -> None:
    initialize(client)
    ready(client)
    for number, settings in enumerate([{"enabled": False}, {"treeline": {"enabled": True}}]):
        client.notify("workspace/didChangeConfiguration", {"settings": settings})
        assert reason(client, f"file:///a{number}.py") == REASONS[number]


def test_pulled_settings_that_say_nothing(client: Client) -> None:
    answers = iter([REFUSED, None, [], [None], [{}], [{"enabled": None}], {"enabled": False}])
    client.answers["workspace/configuration"] = lambda _: next(answers)
    initialize(client, capabilities=PULLING)
    ready(client)
    client.until(lambda message: message.get("method") == "workspace/configuration")
    for _ in range(6):
        client.notify("workspace/didChangeConfiguration", {"settings": None})
        client.until(lambda message: message.get("method") == "workspace/configuration")
    assert reason(client, "file:///a.py") == "answered"


def test_settings_that_are_pulled(client: Client) -> None:
    enabled = [False]
    asked: list[Any] = []

    def answer(params: Any) -> Any:
        asked.append(params)
        return [{"enabled": enabled[0]}]

    client.answers["workspace/configuration"] = answer
    initialize(client, capabilities=PULLING)
    ready(client)
    client.until(lambda message: message.get("method") == "workspace/configuration")
    assert asked == [{"items": [{"section": "treeline"}]}]
    assert reason(client, "file:///a.py") == "disabled"
    enabled[0] = True
    client.notify("workspace/didChangeConfiguration", {"settings": {}})
    client.until(lambda message: message.get("method") == "workspace/configuration")
    assert reason(client, "file:///b.py") == "answered"


def test_what_is_wrong_is_said_once(client: Client) -> None:
    wrong = {"maxTokens": 0, "colour": "red", "debounceMs": True, "enabled": True, "deadlineMs": 1.5}
    initialize(client, **wrong)
    ready(client)
    for _ in range(3):
        client.notify("workspace/didChangeConfiguration", {"settings": {"treeline": {"colour": "blue", "enabled": 1}}})
    assert reason(client, "file:///a.py") == "answered"
    shown = [each["message"] for each in client.seen("window/showMessage")]
    log = "\n".join(client.log)
    for what in ("maxTokens is 0", "colour is no setting", "debounceMs is True", "deadlineMs is 1.5", "enabled is 1"):
        assert sum(each.startswith(f"Treeline: treeline.{what}") for each in shown) == 1
        assert log.count(f"treeline.{what}") == 1
    assert len(shown) == 5


def test_toggle(client: Client) -> None:
    initialize(client)
    ready(client)
    assert command(client, "toggle") is False
    client.notified("treeline/status", lambda status: status["kind"] == "Inactive")
    assert reason(client, "file:///a.py") == "disabled"
    assert command(client, "toggle") is True
    assert reason(client, "file:///b.py") == "answered"
    assert command(client, "toggle", "python") is False
    assert reason(client, "file:///c.py") == "disabled"
    assert reason(client, "file:///c.lua", "lua") == "answered"
    assert command(client, "toggle", "python") is True
    assert reason(client, "file:///d.py") == "answered"


def test_explain(client: Client) -> None:
    initialize(client)
    ready(client)
    assert explain(client) == {"latest": None, "message": "nothing has been asked yet", "recent": []}
    assert reason(client, "file:///one.py") == "answered"
    assert reason(client, "file:///.env") == "excluded"
    found = explain(client, "file:///one.py")
    assert found["latest"]["uri"] == "file:///one.py"
    assert found["latest"]["characters"] == len("text")
    assert {"cache", "engine", "answer"} <= set(found["latest"]["stages"])
    assert found["message"].startswith("answered")
    assert [each["reason"] for each in found["recent"]] == ["answered", "excluded"]
    assert explain(client)["message"].startswith("excluded: secret file")


def test_statistics(client: Client, scripted: ScriptedEngine) -> None:
    initialize(client)
    ready(client)
    scripted.says("range(3)")
    file = OpenFile(client, "file:///a.py")
    file.open("a = ")
    assert file.complete()
    assert file.complete(kind=2)
    file.change(((0, 4), (0, 4), "range(3)"))
    found = command(client, "statistics")
    assert found["requests"] == {"answered": 1, "typed through": 1}
    assert (found["shown"], found["accepted"], found["charactersSaved"]) == (1, 1, 8)
    assert found["firstTextMs"] > 0
    assert found["status"]["state"] == "ready"


def test_restart(client: Client) -> None:
    initialize(client)
    ready(client)
    assert command(client, "restart") is None
    client.notified("treeline/status", lambda status: status["state"] == "starting")
    ready(client)
    assert reason(client, "file:///a.py") == "answered"


def test_the_fallback_for_clients_without_inline_completion(client: Client, scripted: ScriptedEngine) -> None:
    able = initialize(client, completionFallback=True)["capabilities"]
    ready(client)
    assert able["completionProvider"] is not None
    scripted.says("sum(x)\n    return x")
    file = OpenFile(client, "file:///a.py")
    file.open("def f(x):\n    a = ")
    params = {"textDocument": {"uri": file.uri}, "position": {"line": 1, "character": 8}}
    found = client.request("textDocument/completion", params)
    [item] = found["items"]
    assert found["isIncomplete"] is True
    assert item["textEdit"]["newText"].startswith("sum(x)")
    assert item["label"].startswith("sum(x)")
    assert client.request("textDocument/completion", params | {"context": {"triggerKind": 1}})["items"] == [item]


def test_in_the_fallback_typing_is_no_explicit_request(client: Client, scripted: ScriptedEngine) -> None:
    initialize(client, completionFallback=True)
    ready(client)
    file = OpenFile(client, "file:///a.py")
    file.open("def f(x):\n    a = ")
    file.change(((1, 8), (1, 8), "y"))
    params = {"textDocument": {"uri": file.uri}, "position": {"line": 1, "character": 9}}
    for invoked in (False, True):  # whoever asks again at the same place means it
        [item] = client.request("textDocument/completion", params | {"context": {"triggerKind": 1}})["items"]
        assert item["insertTextMode"] == 1, "it is indented already"
        assert command(client, "explain", file.uri)["latest"]["invoked"] is invoked


def test_what_was_made_with_other_settings_is_made_anew(client: Client, scripted: ScriptedEngine) -> None:
    initialize(client)
    ready(client)
    scripted.says("text")
    file = OpenFile(client, "file:///a.py")
    file.open("a = ")
    for count, tokens in ((1, 8), (1, 8), (2, 9)):
        client.notify("workspace/didChangeConfiguration", {"settings": {"treeline": {"maxTokens": tokens}}})
        assert file.complete()
        assert len([each for each in scripted.asked if each.prompt == "a = "]) == count


@pytest.mark.parametrize(
    ("text", "label"),
    [("return x", "return x"), ("\n    \n    return x", "return x"), ("\n    if x:\n        y", "if x: …")],
)
def test_a_menu_shows_the_first_line_that_says_something(
    client: Client, scripted: ScriptedEngine, text: str, label: str
) -> None:
    initialize(client, completionFallback=True)
    ready(client)
    scripted.says(text)
    file = OpenFile(client, "file:///a.py")
    file.open("def f(x):")
    params = {"textDocument": {"uri": file.uri}, "position": {"line": 0, "character": 9}}
    [item] = client.request("textDocument/completion", params)["items"]
    assert (item["label"], item["textEdit"]["newText"]) == (label, text)


@contextmanager
def failing(environment: dict[str, str], config: Path, text: str) -> Iterator[tuple[Client, dict[str, Any]]]:
    """A server whose configuration is `text`, and the status that says what is wrong with it."""
    config.write_text(text)
    with launch(environment, ["--config", str(config)]) as client:
        initialize(client)
        yield client, client.notified("treeline/status", lambda status: status["state"] == "failed")


def test_a_key_that_fits_no_header_is_said(environment: dict[str, str], tmp_path: Path) -> None:
    text = 'url = "http://127.0.0.1:9/v1"\napi_key = "schlüssel"\n'
    with failing(environment, tmp_path / "treeline.toml", text) as (_, status):
        assert "api_key" in status["message"]
        assert "printable ASCII" in status["message"]


def test_a_configuration_that_cannot_be_read(environment: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "treeline.toml"
    with failing(environment, config, 'budget = "plenty"\n') as (client, status):
        assert status["kind"] == "Error"
        assert "budget" in status["message"]
        assert reason(client, "file:///a.py") == "engine error"
        config.write_text(Path(environment["TREELINE_CONFIG"]).read_text())
        command(client, "restart")
        ready(client)
        assert reason(client, "file:///b.py") == "answered"


def test_a_server_at_url_that_is_not_there(environment: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "treeline.toml"
    config.write_text('url = "http://127.0.0.1:9/v1"\nmodel = "scripted"\n')
    with launch(environment, ["--config", str(config)]) as client:
        initialize(client)
        ready(client)
        assert reason(client, "file:///a.py") == "engine error"
        assert "cannot be reached" in explain(client)["message"]
