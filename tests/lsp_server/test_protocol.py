"""JSON-RPC as the specification has it, whatever a client sends: over standard streams and over TCP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.lsp_server.open_file import OpenFile
from tests.lsp_server.rpc import PATIENCE, Client, connect, frame, initialize, launch, listening
from tests.lsp_server.scripted_engine import Pause, ScriptedEngine


@pytest.fixture(params=["stdio", "tcp"])
def stranger(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Client]:
    """A server of the test's own, over each transport, to which nothing has been said yet."""
    with launch(environment, transport=request.param) as client:
        yield client


def alive(client: Client) -> bool:
    """Whether the session goes on."""
    return client.request("workspace/executeCommand", {"command": "treeline.server.explain"})["message"] != ""


# --- what is wrong with a message ------------------------------------------------------------------------------------


def test_unknown_method(session: Client) -> None:
    assert session.error("textDocument/brew", {"coffee": True}) == -32601
    assert session.error("textDocument/completion", {"textDocument": {"uri": "a"}, "position": {}}) == -32601
    assert session.error("nothing/at/all") == -32601
    assert alive(session)


def test_unknown_notifications_are_ignored(session: Client) -> None:
    session.notify("$/brew", {"coffee": [1, 2]})
    session.notify("textDocument/brew")
    session.notify("$/setTrace", {"value": "verbose"})
    session.notify("$/logTrace", {"message": ""})
    assert alive(session)


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        [],
        {"textDocument": {"uri": "file:///a.py"}, "position": {"line": 0, "character": 0}},
        {"textDocument": {}, "position": {"line": 0, "character": 0}, "context": {"triggerKind": 1}},
        {"textDocument": {"uri": "a"}, "position": {"line": -1, "character": 0}, "context": {"triggerKind": 1}},
        {"textDocument": {"uri": "a"}, "position": {"line": "x", "character": 0}, "context": {"triggerKind": 1}},
        {"textDocument": {"uri": "a"}, "position": None, "context": {"triggerKind": 1}},
    ],
    ids=["null", "empty", "list", "no context", "no uri", "negative", "word", "no position"],
)
def test_params_that_cannot_be_understood(session: Client, params: object) -> None:
    assert session.error("textDocument/inlineCompletion", params) == -32602
    assert alive(session)


def test_unknown_command(session: Client) -> None:
    assert session.error("workspace/executeCommand", {"command": "brew.coffee"}) == -32602
    assert session.error("workspace/executeCommand", {}) == -32602
    assert alive(session)


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b"[" * 100_000, b'{"jsonrpc": "2.0", "id": 1'])
def test_what_is_no_json(session: Client, body: bytes) -> None:
    session.write(frame(body))
    answer = session.wait(None)
    assert (answer["error"]["code"], answer["id"]) == (-32700, None)
    assert alive(session)


@pytest.mark.parametrize(
    "message",
    [
        [],
        [{"jsonrpc": "2.0", "id": 1, "method": "shutdown"}],
        {},
        {"id": None, "method": "shutdown", "jsonrpc": "2.0"},
        {"jsonrpc": "2.0", "id": 1.5, "method": "shutdown"},
        {"jsonrpc": "2.0", "id": {"a": 1}, "method": "shutdown"},
        {"jsonrpc": "2.0", "id": True, "method": "shutdown"},
        {"jsonrpc": "2.0"},
        "shutdown",
        7,
        None,
    ],
)
def test_what_is_no_message(session: Client, message: object) -> None:
    session.write(frame(json.dumps(message).encode()))
    answer = session.wait(None)
    assert (answer["error"]["code"], answer["id"]) == (-32600, None)
    assert alive(session)


@pytest.mark.parametrize(
    "message",
    [
        {"method": "shutdown"},
        {"jsonrpc": "1.0", "method": "shutdown"},
        {"jsonrpc": 2, "method": "shutdown"},
        {"jsonrpc": "2.0", "method": {}},
        {"jsonrpc": "2.0", "method": None},
    ],
)
def test_a_bad_request_is_answered_by_its_id(session: Client, message: dict[str, object]) -> None:
    session.send(message | {"id": "mine"})
    assert session.wait("mine")["error"]["code"] == -32600
    assert alive(session)


def test_answers_that_nobody_waits_for(session: Client) -> None:
    session.send({"jsonrpc": "2.0", "id": 4711, "result": {"a": 1}})
    session.send({"jsonrpc": "2.0", "id": "x", "error": {"code": -1, "message": "no"}})
    session.send({"jsonrpc": "2.0", "id": [], "result": None})
    session.send({"jsonrpc": "2.0", "id": "y", "error": "none"}, {"jsonrpc": "2.0", "id": None})
    assert session.wait(None)["error"]["code"] == -32600
    assert alive(session)


def test_ids_may_be_words(session: Client) -> None:
    params = {"command": "treeline.server.explain"}
    session.send({"jsonrpc": "2.0", "id": "ä1", "method": "workspace/executeCommand", "params": params})
    assert "result" in session.wait("ä1")


def test_a_key_named_as_those_of_messages_is_data(session: Client, file: OpenFile, scripted: ScriptedEngine) -> None:
    odd = {"jsonrpc": "1.0", "id": 5, "method": "exit", "type_name": "x y", "class": 1}
    session.notify("workspace/didChangeConfiguration", {"settings": {"other": odd}})
    session.notify("$/odd", odd)
    assert session.error("nothing", odd) == -32601
    assert alive(session)


# --- how messages are framed -----------------------------------------------------------------------------------------


def test_bytes_may_come_one_by_one(session: Client) -> None:
    message = session.make("workspace/executeCommand", {"command": "treeline.server.explain"})
    for byte in frame(message):
        session.write(bytes([byte]))
    assert "result" in session.wait(message["id"])


def test_headers_of_other_spellings(session: Client) -> None:
    message = session.make("workspace/executeCommand", {"command": "treeline.server.explain"})
    body = json.dumps(message).encode()
    length = str(len(body)).encode()
    session.write(
        b"content-type: application/vscode-jsonrpc; charset=utf-8\r\ncontent-length:" + length + b"\r\n\r\n" + body
    )
    assert "result" in session.wait(message["id"])


def test_headers_without_a_length_are_skipped(session: Client) -> None:
    session.write(b"Content-Length: many\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert alive(session)


def test_many_messages_in_one_piece(session: Client) -> None:
    messages = [session.make("workspace/executeCommand", {"command": "treeline.server.explain"}) for _ in range(50)]
    session.send(*messages)
    assert all("result" in session.wait(message["id"]) for message in messages)


# --- the beginning and the end ---------------------------------------------------------------------------------------


def test_before_initialize(stranger: Client) -> None:
    stranger.notify("textDocument/didOpen", {"textDocument": {}})
    assert stranger.error("textDocument/inlineCompletion", {}) == -32002
    assert stranger.error("shutdown") == -32002
    assert stranger.error("initialize", {}) == -32602
    initialize(stranger)
    assert stranger.error("initialize", {"processId": None, "rootUri": None, "capabilities": {}}) == -32600
    assert alive(stranger)


def test_after_shutdown(stranger: Client) -> None:
    initialize(stranger)
    assert stranger.request("shutdown") is None
    assert stranger.error("shutdown") == -32600
    assert stranger.error("textDocument/inlineCompletion", {}) == -32600
    stranger.notify("textDocument/didOpen", {})
    stranger.notify("exit")
    assert stranger.finish() == 0


def test_shutdown_and_exit_in_one_piece(stranger: Client) -> None:
    initialize(stranger)
    shutdown = stranger.make("shutdown")
    stranger.send(shutdown, {"jsonrpc": "2.0", "method": "exit"})
    assert stranger.wait(shutdown["id"])["result"] is None
    assert stranger.finish() == 0


@pytest.mark.parametrize("begun", [True, False])
def test_exit_without_shutdown(stranger: Client, begun: bool) -> None:
    if begun:
        initialize(stranger)
    stranger.notify("exit")  # the client's end of the stream stays open
    assert stranger.finish() == 1


def test_shutdown_answers_what_is_under_way(stranger: Client, scripted: ScriptedEngine) -> None:
    initialize(stranger)
    stranger.notified("treeline/status", lambda status: status["state"] == "ready")
    scripted.says(Pause())
    file = OpenFile(stranger, "file:///nowhere/under_way.py")
    file.open("under_way = ")
    number = file.begin()
    asked = scripted.wait("under_way")
    assert stranger.request("shutdown") is None
    assert stranger.wait(number)["error"]["code"] == -32800
    stranger.notify("exit")
    assert stranger.finish() == 0
    assert asked.gone.wait(PATIENCE)


@pytest.mark.parametrize("politely", [True, False])
def test_the_end_of_input_ends_the_process(environment: dict[str, str], politely: bool) -> None:
    with launch(environment) as client:
        initialize(client)
        if politely:
            client.request("shutdown")
        client.close_input()
        assert client.finish() == (0 if politely else 1)


def test_the_end_of_input_in_the_middle_of_a_message(fresh: Client) -> None:
    initialize(fresh)
    fresh.write(b'Content-Length: 100\r\n\r\n{"jsonrpc"')
    fresh.close_input()
    assert fresh.finish() == 1
    assert fresh.log == []


def test_the_end_of_a_connection_ends_the_process(environment: dict[str, str]) -> None:
    with launch(environment, transport="tcp") as client:
        initialize(client)
        client.close_input()
        assert client.finish() == 1


def test_nobody_reads_any_more(environment: dict[str, str]) -> None:
    command = [sys.executable, "-I", "-m", "lsp_server"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write(frame({"jsonrpc": "2.0", "id": 1, "method": "shutdown"}))
        process.stdin.flush()
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == b""


def test_the_process_ends_with_its_parent(fresh: Client) -> None:
    editor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    fresh.request("initialize", {"processId": editor.pid, "rootUri": None, "capabilities": {}})
    fresh.notify("initialized", {})
    fresh.request("workspace/executeCommand", {"command": "treeline.server.explain"})
    editor.kill()
    editor.communicate()
    assert fresh.finish() == 1
    assert f"process {editor.pid}, the editor, is gone" in "".join(fresh.log)


@pytest.mark.parametrize("number", [None, 2**40])
def test_a_parent_of_another_machine_means_nothing(fresh: Client, number: int | None) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    fresh.request("initialize", {"processId": number or gone.pid, "rootUri": None, "capabilities": {}})
    fresh.notify("initialized", {})
    fresh.notified("treeline/status", lambda status: status["state"] == "ready")
    assert not [line for line in fresh.log if "error" in line]
    fresh.request("shutdown")
    fresh.notify("exit")
    assert fresh.finish() == 0


def test_a_folder_that_has_no_path_is_none_of_ours(fresh: Client) -> None:
    folders = [{"uri": "file://[x", "name": "strange"}]
    given = {"processId": None, "rootUri": None, "workspaceFolders": folders, "capabilities": {}}
    assert fresh.request("initialize", given)["capabilities"]
    fresh.notify("initialized", {})
    file = OpenFile(fresh, "file:///nowhere/a.py")
    file.open("x = ")
    fresh.notified("treeline/status", lambda status: status["state"] == "ready")
    assert file.complete()


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_standard_streams(environment: dict[str, str], closed: int) -> None:
    code = f"import os, sys\nos.close({closed})\nos.execv(sys.executable, [sys.executable, '-m', 'lsp_server'])"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, b"")
    if closed != 2:
        assert ran.stderr == (
            b"treeline-lsp: standard input or output is closed: an editor starts this with both, or names --tcp\n"
        )


def test_a_living_parent_is_let_alone(fresh: Client) -> None:
    fresh.request("initialize", {"processId": os.getpid(), "rootUri": None, "capabilities": {}})
    fresh.notify("initialized", {})
    fresh.request("shutdown")
    fresh.notify("exit")
    assert fresh.finish() == 0


def test_a_second_connection_is_turned_away(environment: dict[str, str]) -> None:
    process, host, port = listening(environment, [], "--tcp")
    client = connect(process, host, port)
    initialize(client)
    try:
        with socket.create_connection((host, port), PATIENCE) as second:
            assert second.recv(1) == b""
    except ConnectionError:
        pass  # refused, or reset
    client.request("shutdown")
    client.notify("exit")
    assert client.finish() == 0


def test_an_address_that_cannot_be_had(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-I", "-m", "lsp_server", "--tcp", f"127.0.0.1:{taken.getsockname()[1]}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "cannot listen on 127.0.0.1" in done.stderr
