"""textDocument/inlineCompletion, as the specification and the clients in use have it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lsp_server.open_file import OpenFile, position, span
from tests.lsp_server.rpc import CAPABILITIES, Client, initialize, launch
from tests.lsp_server.scripted_engine import Failure, Pause, ScriptedEngine

COMMANDS = ["accepted", "digest", "explain", "restart", "statistics", "toggle"]


def test_what_is_advertised(fresh: Client) -> None:
    result = initialize(fresh, capabilities=CAPABILITIES | {"notebookDocument": {"synchronization": {}}})
    able = result["capabilities"]
    assert able["inlineCompletionProvider"] == {}
    assert sorted(able["executeCommandProvider"]["commands"]) == [f"treeline.server.{name}" for name in COMMANDS]
    assert able["textDocumentSync"]["openClose"] is True
    assert able["textDocumentSync"]["change"] == 2  # incremental
    assert able["textDocumentSync"]["save"]
    assert able["notebookDocumentSync"] == {"notebookSelector": [{"notebook": "*"}]}
    assert able["workspace"]["workspaceFolders"] == {"supported": True, "changeNotifications": True}
    assert "completionProvider" not in able
    assert result["serverInfo"]["name"] == "treeline"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, "utf-16"),
        (["utf-16"], "utf-16"),
        (["utf-8", "utf-16"], "utf-8"),
        (["utf-32", "utf-16"], "utf-32"),
        (["utf-7", "utf-8"], "utf-8"),
        (["utf-7"], "utf-16"),
    ],
)
def test_the_position_encoding_is_the_clients_first_choice(
    environment: dict[str, str], offered: list[str] | None, chosen: str
) -> None:
    general = {} if offered is None else {"positionEncodings": offered}
    with launch(environment) as client:
        assert (
            initialize(client, capabilities=CAPABILITIES | {"general": general})["capabilities"]["positionEncoding"]
            == chosen
        )


def test_an_item_has_an_explicit_range(file: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.says("range(10)")
    file.open("numbers = \nprint(numbers)\n")
    [item] = file.complete((0, 10))
    assert item["insertText"] == "range(10)"
    assert item["range"] == span((0, 10), (0, 10))
    assert item["command"] == {
        "title": "Treeline: accepted",
        "command": "treeline.server.accepted",
        "arguments": [file.uri],
    }
    assert file.client.request("workspace/executeCommand", item["command"]) is None
    assert scripted.asked[-1].prompt == "numbers = "
    assert scripted.asked[-1].suffix == "\nprint(numbers)\n"
    assert file.reason() == "answered"


def test_while_typing_an_item_stays_the_same_and_begins_where_it_began(
    file: OpenFile, scripted: ScriptedEngine
) -> None:
    scripted.says("range(10)")
    file.open("steps = ")
    first = file.complete((0, 8))
    for column, char in enumerate("ran", start=8):
        file.change(((0, column), (0, column), char))
        [item] = file.complete((0, column + 1), kind=2)
        assert item["insertText"] == first[0]["insertText"]
        assert item["range"] == span((0, 8), (0, column + 1))
        assert file.reason() == "typed through"
    assert len(scripted.asked) == 1


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_every_trigger_kind(file: OpenFile, scripted: ScriptedEngine, kind: int) -> None:
    scripted.says("1")
    file.open("kind = ")
    [item] = file.complete((0, 7), kind=kind)
    assert item["insertText"] == "1"
    latest = explain_latest(file)
    assert latest["invoked"] is (kind != 2)


def explain_latest(file: OpenFile) -> Any:
    answer = file.client.request(
        "workspace/executeCommand", {"command": "treeline.server.explain", "arguments": [file.uri]}
    )
    return answer["latest"]


def test_the_menus_selection_is_a_forced_prefix(file: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.says("(0)")
    file.open("value = arr\n")
    [item] = file.complete((0, 11), kind=2, selected=((0, 8), (0, 11), "array_of"))
    assert scripted.asked[-1].prompt == "value = array_of"
    assert item["insertText"] == "array_of(0)"
    assert item["range"] == span((0, 8), (0, 11))
    for start, end in (((0, 8), (0, 11)), ((0, 11), (0, 8))):  # ends may come in the wrong order
        [again] = file.complete((0, 11), kind=2, selected=(start, end, "array_of"))
        assert again == item
    scripted.says(".real")
    [other] = file.complete((0, 11), kind=2, selected=((0, 8), (0, 11), "arrow"))
    assert other["insertText"] == "arrow.real"
    assert scripted.asked[-1].prompt == "value = arrow"


def test_ranges_may_be_pairs_of_positions(file: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.says("(0)")
    file.open("value = arr\n")
    params = file.params((0, 11), kind=0, selected=((0, 8), (0, 11), "array_in"))
    params["context"]["selectedCompletionInfo"]["range"] = [position((0, 8)), position((0, 11))]
    [item] = file.client.request("textDocument/inlineCompletion", params)["items"]
    assert item["insertText"] == "array_in(0)"
    assert item["range"] == span((0, 8), (0, 11))


@pytest.mark.parametrize("extra", [{"version": 1}, {"version": None}, {"languageId": "python"}])
def test_more_may_be_said_of_the_document(file: OpenFile, extra: dict[str, Any]) -> None:
    file.open("version = ")
    params = file.params((0, 10))
    params["textDocument"] |= extra
    params |= {"workDoneToken": "token", "partialResultToken": 3, "formattingOptions": {"tabSize": 4}}
    assert file.client.request("textDocument/inlineCompletion", params)["items"]


@pytest.mark.parametrize("answer", [[], [""], ["   "], ["\n\n"], [Failure()], [Failure(400)], [Failure(429, "busy")]])
def test_nothing_to_offer_is_no_error(file: OpenFile, scripted: ScriptedEngine, answer: list[Any]) -> None:
    scripted.says(*answer)
    file.open("nothing = ")
    assert file.client.request("textDocument/inlineCompletion", file.params()) == {"items": []}
    scripted.says("1")
    wait_until_ready(file.client)
    file.change("something = ")
    assert file.complete()[0]["insertText"] == "1"


def wait_until_ready(client: Client) -> None:
    """Wait until the engine is looked at as there again."""
    while statistics(client)["status"]["state"] != "ready":
        client.notified("treeline/status")


def statistics(client: Client) -> Any:
    return client.request("workspace/executeCommand", {"command": "treeline.server.statistics"})


def test_an_engine_that_goes_away_in_the_middle(file: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.script = lambda _: ["halfway", Pause()]
    file.open("broken = ")
    number = file.begin()
    scripted.wait("broken").paused.wait()
    scripted.wait("broken").go_on()
    assert file.client.wait(number)["result"]["items"][0]["insertText"] == "halfway"


def test_a_document_that_nobody_has_opened(file: OpenFile, scripted: ScriptedEngine) -> None:
    assert file.complete() == []
    assert file.reason() == "unknown document"
    assert not scripted.asked


def test_a_closed_document_is_forgotten(file: OpenFile, scripted: ScriptedEngine) -> None:
    file.open("closed = ")
    assert file.complete()
    file.close()
    assert file.complete() == []
    assert file.reason() == "unknown document"
    file.open("anew = ")
    assert file.complete()
    assert scripted.asked[-1].prompt == "anew = "


def test_a_request_at_the_deadline_gets_what_there_is(environment: dict[str, str], scripted: ScriptedEngine) -> None:
    with launch(environment) as client:
        initialize(client, deadlineMs=1)
        wait_until_ready(client)
        scripted.says("first(", "second", Pause(), ")")
        file = OpenFile(client, "file:///nowhere/deadline.py")
        file.open("late = ")
        items = file.complete()
        assert items[0]["insertText"] in ("first(", "first(second")
        asked = scripted.wait("late")
        assert asked.paused.wait(30)
        asked.go_on()
        assert asked.answered.wait(30)
        while not (items := file.complete())[0]["insertText"].endswith(")"):
            pass
        assert items[0]["insertText"] == "first(second)"
        assert len(scripted.asked) == 1
