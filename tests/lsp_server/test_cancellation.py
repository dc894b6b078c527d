"""Requests that nobody waits for any more: they end at once, and so does the engine's work for them."""

from __future__ import annotations

import random
import time
import uuid

import pytest

from tests.lsp_server.open_file import OpenFile, explain
from tests.lsp_server.rpc import PATIENCE, Client, Message
from tests.lsp_server.scripted_engine import Pause, ScriptedEngine


def cancel(number: int | str) -> Message:
    return {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": number}}


@pytest.fixture
def other(session: Client) -> OpenFile:
    """A second document of the session."""
    return OpenFile(session, f"file:///nowhere/{uuid.uuid4()}.py")


@pytest.mark.parametrize("answer", [[Pause()], ["some", Pause(), "thing"]], ids=["before headers", "in the middle"])
def test_cancel_reaches_the_engine(file: OpenFile, scripted: ScriptedEngine, answer: list[str | Pause]) -> None:
    scripted.says(*answer)
    file.open("cancelled = ")
    number = file.begin()
    asked = scripted.wait("cancelled")
    assert asked.paused.wait(PATIENCE)
    file.client.send(cancel(number))
    assert file.client.wait(number)["error"]["code"] == -32800
    assert asked.gone.wait(PATIENCE)  # the connection was closed
    assert file.reason() == "cancelled"
    scripted.says("1")
    file.change("fulfilled = ")
    assert file.complete()[0]["insertText"] == "1"


def test_request_and_cancel_in_one_piece(file: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.says(Pause())
    file.open("at_once = ")
    request = file.client.make("textDocument/inlineCompletion", file.params())
    file.client.send(request, cancel(request["id"]))
    assert file.client.wait(request["id"])["error"]["code"] == -32800
    assert file.reason() == "cancelled"
    for asked in scripted.asked:
        assert asked.gone.wait(PATIENCE)


def test_cancel_of_what_is_not_there(file: OpenFile) -> None:
    file.open("there = ")
    number = file.begin()
    assert "result" in file.client.wait(number)
    file.client.send(cancel(number), cancel(99_999), cancel("never"))
    file.client.notify("$/cancelRequest", {})
    file.client.notify("$/cancelRequest", {"id": None})
    assert file.complete()


def test_a_request_behind_a_cancelled_one_takes_over_its_work(file: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.says("on", Pause(), "ward")
    file.open("take_over = ")
    first = file.begin()
    asked = scripted.wait("take_over")
    assert asked.paused.wait(PATIENCE)
    again = file.client.make("textDocument/inlineCompletion", file.params())
    file.client.send(cancel(first), again)
    assert file.client.wait(first)["error"]["code"] == -32800
    asked.go_on()
    assert file.client.wait(again["id"])["result"]["items"][0]["insertText"] == "onward"
    assert len(scripted.asked) == 1
    assert not asked.gone.is_set()


def test_the_newest_request_for_a_document_wins(file: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.says(Pause(), "1")
    file.open("old = \nnew = ")
    old = file.begin((0, 6))
    asked = scripted.wait("old")
    new = file.begin((1, 6))
    assert file.client.wait(old)["result"] == {"items": []}
    assert asked.gone.wait(PATIENCE)
    newer = scripted.wait("new")
    newer.go_on()
    assert file.client.wait(new)["result"]["items"][0]["insertText"] == "1"
    reasons = [each["reason"] for each in explain(file.client)["recent"] if each["uri"] == file.uri]
    assert reasons == ["superseded", "answered"]


def test_documents_do_not_disturb_each_other(file: OpenFile, other: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.says(Pause(), "1")
    file.open("here = ")
    other.open("there = ")
    numbers = [file.begin(), other.begin()]
    here, there = scripted.wait("here = "), scripted.wait("there = ", count=1)
    other.change("elsewhere")
    other.close()
    assert scripted.wait("there = ").gone.wait(PATIENCE)
    assert file.client.wait(numbers[1])["result"] == {"items": []}
    here = next(each for each in scripted.asked if each.prompt == "here = ")
    here.go_on()
    assert file.client.wait(numbers[0])["result"]["items"][0]["insertText"] == "1"
    assert there is not None


def test_the_work_ends_when_what_is_typed_contradicts_it(file: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.says("abc(", Pause())
    file.open("typed = ")
    [item] = file.complete()  # at the deadline
    assert item["insertText"] == "abc("
    asked = scripted.wait("typed")
    file.change(((0, 8), (0, 8), "a"))
    file.client.request("workspace/executeCommand", {"command": "treeline.server.explain"})
    assert not asked.gone.is_set()
    file.change(((0, 9), (0, 9), "x"))
    assert asked.gone.wait(PATIENCE)


def test_a_storm_of_requests_and_cancellations(file: OpenFile, other: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.script = lambda asked: ["so", Pause(), "on"] if len(asked.prompt) % 3 else ["so on"]
    chance = random.Random(4711)
    files = [file, other]
    for each in files:
        each.open("storm = ")
    numbers: list[int] = []
    late: list[int] = []
    for step in range(200):
        each = chance.choice(files)
        if chance.random() < 0.5:
            each.change("storm = " + "x" * chance.randrange(40))
        request = each.client.make("textDocument/inlineCompletion", each.params(kind=chance.choice([1, 2])))
        numbers.append(request["id"])
        messages = [request]
        if step < 198:
            messages += [cancel(number) for number in late if chance.random() < 0.5]
            late = [request["id"]]
            if chance.random() < 0.3:
                messages.append(cancel(request["id"]))
        each.client.send(*messages)
        if chance.random() < 0.1:
            time.sleep(0.01)  # some of them get as far as the engine
    for each in files:
        each.change("calm = ")
        scripted.script = lambda _: ["1"]
        assert each.complete()[0]["insertText"] == "1"
    for number in numbers:
        answer = file.client.wait(number)
        assert answer.get("result", {}).get("items") is not None or answer["error"]["code"] == -32800
    for asked in scripted.asked:
        assert asked.answered.wait(PATIENCE)  # no work is left that nobody waits for
    assert not [message for message in file.client.received if message.get("id") in numbers]
