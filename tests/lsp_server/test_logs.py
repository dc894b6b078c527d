"""The log holds what happened, never what somebody wrote; and standard output holds nothing but messages."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lsp_server.open_file import OpenFile, span
from tests.lsp_server.rpc import Client, frame, initialize, launch
from tests.lsp_server.scripted_engine import Failure, Pause, ScriptedEngine

SECRET = "canary_4711"


def test_no_text_is_logged_whatever_goes_wrong(environment: dict[str, str], scripted: ScriptedEngine) -> None:
    with launch(environment, ["--log-level", "debug"]) as client:
        initialize(client)
        client.notified("treeline/status", lambda status: status["state"] == "ready")
        file = OpenFile(client, "file:///a.py")
        file.open(f"{SECRET} = ")
        scripted.says(f"{SECRET}()")
        assert SECRET in file.complete()[0]["insertText"]
        go_wrong(client, file, scripted)
        client.request("shutdown")
        client.notify("exit")
        assert client.finish() == 0
        log = "\n".join(client.log)
        assert SECRET not in log
        assert "answered" in log
        assert "engine error" in log
        assert "cannot be understood" in log


def go_wrong(client: Client, file: OpenFile, scripted: ScriptedEngine) -> None:
    """Do what ends in errors of all kinds, with the secret in each."""
    client.notify("textDocument/didChange", {"textDocument": {"uri": SECRET}, "contentChanges": [{"text": SECRET}]})
    client.notify("textDocument/didChange", {"textDocument": {"uri": file.uri, "version": SECRET}})
    client.notify("textDocument/didOpen", {"textDocument": {"uri": 1, "text": SECRET}})
    client.notify(f"unknown/{SECRET}", {"text": SECRET})
    client.error(f"unknown/{SECRET}", {"text": SECRET})
    client.error("textDocument/inlineCompletion", {"text": SECRET})
    client.error("workspace/executeCommand", {"command": SECRET, "arguments": [SECRET]})
    client.request("workspace/executeCommand", {"command": "treeline.server.explain", "arguments": [{"a": SECRET}]})
    client.write(frame(f'{{"text": "{SECRET}'.encode()))
    client.wait(None)
    client.send({"jsonrpc": "2.0", "id": SECRET, "result": SECRET}, [SECRET], {"jsonrpc": "1.0", "text": SECRET})
    change = {"document": {"uri": file.uri, "version": 2}, "changes": [{"range": span((0, 0), (0, 0)), "text": SECRET}]}
    book = {"notebookDocument": {"uri": SECRET, "version": 2}, "change": {"cells": {"textContent": [change]}}}
    client.notify("notebookDocument/didChange", book)
    scripted.says(Failure(500, "cannot read {prompt}"))
    file.change(f"fail {SECRET} = ")
    assert file.complete() == []
    scripted.says(SECRET, Pause())
    file.change(f"pause {SECRET} = ")
    number = file.begin()
    client.notify("$/cancelRequest", {"id": number})
    client.wait(number)


@pytest.mark.parametrize("level", ["error", "info"])
def test_a_usual_session_leaves_no_log(environment: dict[str, str], scripted: ScriptedEngine, level: str) -> None:
    with launch(environment, ["--log-level", level]) as client:
        initialize(client)
        client.notified("treeline/status", lambda status: status["state"] == "ready")
        file = OpenFile(client, "file:///a.py")
        file.open("a = ")
        assert file.complete()
        number = file.begin()
        client.wait(number)
        client.notify("$/cancelRequest", {"id": number})
        client.request("shutdown")
        client.notify("exit")
        assert client.finish() == 0
        assert client.log == []


def test_what_is_printed_is_no_message(tmp_path: Path, environment: dict[str, str]) -> None:
    script = tmp_path / "printing.py"
    script.write_text(
        "import asyncio, os, subprocess, sys\n"
        "from lsp_server import transport\n"
        "class Session:\n"
        "    left = False\n"
        "    def set_writer(self, writer): self.writer = writer\n"
        "    def receive(self, body):\n"
        "        print('printed by us')\n"
        "        subprocess.run([sys.executable, '-c', 'print(repr(input()))'], stderr=subprocess.DEVNULL)\n"
        "        subprocess.run([sys.executable, '-c', 'print(8)'])\n"
        "        self.writer.write(body)\n"
        "asyncio.run(transport.serve_stdio(Session()))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], input=frame({"a": 1}) * 2, capture_output=True, env=environment, check=True
    )
    assert done.stdout == b'{"a": 1}{"a": 1}'
    assert done.stderr.count(b"printed by us") == 2
    assert done.stderr.count(b"8") == 2


def test_the_first_line_of_what_libraries_say(capsys: pytest.CaptureFixture[str]) -> None:
    from lsp_server import logs

    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.start("info")
        logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: <%s>" % SECRET)  # noqa: UP031
        logging.getLogger("httpx").warning("request %s", SECRET)
        logging.getLogger("lsp_server.x").info("%d ms", 5)
        logging.getLogger("lsp_server.x").debug("not shown")
        try:
            raise ValueError(SECRET)
        except ValueError:
            logging.getLogger("lsp_server.x").exception("failed")
        logging.getLogger("lsp_server.x").info("%d", SECRET)  # cannot be formatted
    finally:
        root.handlers[:], level = before[0], before[1]
        root.setLevel(level)
        logging.captureWarnings(False)
        logging.raiseExceptions = True
    log = capsys.readouterr().err
    assert SECRET not in log
    for line in (
        "asyncio: Task exception was never retrieved",
        "httpx: request %s",
        "lsp_server.x: 5 ms",
        "ValueError at",
    ):
        assert line in log
