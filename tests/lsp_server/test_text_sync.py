"""Documents over the wire: what the engine is asked about is the client's text, whatever is in it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from lsprotocol import types

from tests.lsp_server.open_file import END, OpenFile, span
from tests.lsp_server.rpc import CAPABILITIES, Client, initialize, launch
from tests.lsp_server.scripted_engine import Pause, ScriptedEngine
from tests.lsp_server.test_documents import CODECS, PIECES, Encoding, opened, place, width


@pytest.fixture(scope="module", params=list(CODECS))
def encoded(request: pytest.FixtureRequest, environment: dict[str, str]) -> Any:
    """A session for each encoding."""
    with launch(environment) as client:
        initialize(client, capabilities=CAPABILITIES | {"general": {"positionEncodings": [request.param]}})
        client.notified("treeline/status", lambda status: status["state"] == "ready")
        yield client, request.param


@pytest.mark.parametrize(
    "odd", ["é", "中", "😀", "a\f", "a\v", "\u2028", "\u2029", "\u0085", "\x1c\x1d\x1e", "e\u0301"]
)
def test_positions_behind_odd_characters(encoded: tuple[Client, Encoding], scripted: ScriptedEngine, odd: str) -> None:
    client, encoding = encoded
    scripted.says("1")
    file = OpenFile(client, f"file:///odd/{ord(odd[-1])}.py")
    line = f"'{odd}' = "
    file.open(f"first{odd}\n{line}\nlast\n")
    column = width(line, encoding)
    [item] = file.complete((1, column))
    assert (scripted.asked[-1].prompt, scripted.asked[-1].suffix) == (f"first{odd}\n{line}", "\nlast\n")
    assert item["range"] == span((1, column), (1, column))
    file.change(((1, column - 1), (1, column), "  "))
    [item] = file.complete((1, column + 1))
    assert scripted.asked[-1].prompt == f"first{odd}\n{line} "
    file.close()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_break(file: OpenFile, scripted: ScriptedEngine, end: str) -> None:
    file.open(f"one{end}two = {end}three{end}")
    [item] = file.complete((1, 6))
    assert scripted.asked[-1].prompt == "one\ntwo = "
    assert scripted.asked[-1].suffix == "\nthree\n"
    assert item["range"] == span((1, 6), (1, 6))
    file.change(((1, 0), (2, 0), ""), ((0, 3), (0, 3), f" = 1{end}zero = "))
    assert file.complete((1, 7))
    assert scripted.asked[-1].prompt == "one = 1\nzero = "
    assert scripted.asked[-1].suffix == "\nthree\n"


def test_places_beyond_the_end(file: OpenFile, scripted: ScriptedEngine) -> None:
    file.open("one\ntwo = ")
    [item] = file.complete((1, 1000))
    assert item["range"] == span((1, 6), (1, 6))
    assert file.complete((2**31 - 1, 2**31 - 1)) == [item]
    file.change(((0, 99), (0, 99), "!"), ((77, 3), (99, 3), "\nthree = "))
    [item] = file.complete((1000, 0))
    assert scripted.asked[-1].prompt == "one!\ntwo = \nthree = "
    assert item["range"] == span((2, 8), (2, 8))


def test_whole_documents(file: OpenFile, scripted: ScriptedEngine) -> None:
    file.open("old = ")
    file.change("new = \nlast")
    assert file.complete((0, 6))
    assert (scripted.asked[-1].prompt, scripted.asked[-1].suffix) == ("new = ", "\nlast")
    file.change("", "other\n", ((0, 5), (0, 5), " = "), ((0, 8), (0, 8), "2 * "))
    assert file.complete((0, 12))
    assert scripted.asked[-1].prompt == "other = 2 * "


def test_a_document_may_be_opened_again(file: OpenFile, scripted: ScriptedEngine) -> None:
    file.open("once = ")
    file.open("twice = ")
    assert file.complete()
    assert scripted.asked[-1].prompt == "twice = "


def test_changes_of_unknown_documents_do_no_harm(file: OpenFile, scripted: ScriptedEngine) -> None:
    file.change(((0, 0), (0, 0), "x"))
    file.close()
    file.client.notify("textDocument/didSave", {"textDocument": {"uri": file.uri}})
    file.open("known = ")
    assert file.complete()
    assert scripted.asked[-1].prompt == "known = "


def test_names_of_documents_may_be_spelled_in_two_ways(session: Client, scripted: ScriptedEngine) -> None:
    file = OpenFile(session, "file:///c%3A/a%20b/%C3%A9.py")
    file.open("spelled = ")
    file.uri = "file:///c:/a%20b/%c3%a9.py"
    assert file.complete()
    file.close()
    assert file.complete() == []


def test_half_of_a_surrogate_pair(file: OpenFile, scripted: ScriptedEngine) -> None:
    file.open("half = '\ud83d' + ")
    scripted.says("1")
    assert file.complete()[0]["insertText"] == "1"
    file.open("pair = '\ud83d' + ")
    file.change(((0, 9), (0, 9), "\ude00"))
    assert file.complete()
    assert scripted.asked[-1].prompt == "pair = '😀' + "


def test_a_change_behind_a_request_is_not_its_own(file: OpenFile, scripted: ScriptedEngine) -> None:
    file.open("before = ")
    request = file.client.make("textDocument/inlineCompletion", file.params((0, 9)))
    change = {"jsonrpc": "2.0", "method": "textDocument/didChange", "params": file.change_params("after\n\n\n")}
    file.client.send(request, change)
    answer = file.client.wait(request["id"])["result"]
    assert answer["items"][0]["range"] == span((0, 9), (0, 9))
    assert scripted.asked[-1].prompt == "before = "
    file.complete()
    assert scripted.asked[-1].prompt == "after\n\n\n"


def test_random_edits_leave_what_the_client_has(encoded: tuple[Client, Encoding], scripted: ScriptedEngine) -> None:
    client, encoding = encoded
    chance = random.Random(4711)
    file = OpenFile(client, "file:///random.py")
    pieces = [piece for piece in PIECES if piece != "\0"]  # which would make it a binary file
    text = "".join(chance.choices(pieces, k=50))
    file.open(text)
    for number in range(300):
        first, past = sorted(chance.choices(range(len(text) + 1), k=2))
        past = min(past, first + 6)
        start, stop = place(text, first, encoding), place(text, past, encoding)
        new = "".join(chance.choices(pieces, k=chance.randrange(6)))
        naive = opened(text, encoding)
        naive.apply_change(types.TextDocumentContentChangePartial(types.Range(start, stop), text=new))
        text = naive.source
        file.change(((start.line, start.character), (stop.line, stop.character), new))
        if number % 20 == 19:
            file.change((END, END, f"\n{number} = "))
            text += f"\n{number} = "
            assert file.complete()
            assert scripted.asked[-1].prompt == text.replace("\r\n", "\n").replace("\r", "\n")
    file.close()


def test_a_long_document(file: OpenFile, scripted: ScriptedEngine) -> None:
    text = "".join(f"line_{number} = '{'x' * 60}'\n" for number in range(20_000))
    file.open(text + "long = ")
    assert file.complete()
    prompt = scripted.asked[-1].prompt
    assert (text + "long = ").endswith(prompt)
    assert prompt.count("\n") >= 2048


def test_the_newest_text_counts_while_an_answer_is_awaited(file: OpenFile, scripted: ScriptedEngine) -> None:
    scripted.script = lambda asked: [Pause(), "1"] if asked.prompt == "slow = " else ["2"]
    file.open("slow = ")
    number = file.begin()
    asked = scripted.wait("slow")
    file.change("quick = ")
    assert asked.gone.wait(30)
    assert file.complete()[0]["insertText"] == "2"
    assert file.client.wait(number)["result"] == {"items": []}
