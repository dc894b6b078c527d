"""The ordinary life of a session, by pytest-lsp: its client checks every message against the specification."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from lsprotocol import types
from pytest_lsp import ClientServerConfig, LanguageClient, client_capabilities

from tests.server.serving import private_daemons

TEXT = "import os\n\n\ndef read_lines(path):\n    with open(path) as file:\n        "
END = types.Position(5, 8)
SETTINGS = {"debounceMs": 0, "deadlineMs": 600_000}  # whole suggestions, however slow the machine


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The bundled pair, in a daemon of these tests' own."""
    folder = Path("/tmp") / f"tl-{tmp_path_factory.mktemp('session').stat().st_ino}"  # sockets have short names only
    try:
        with private_daemons(folder) as environment:
            yield environment
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def config(environment: dict[str, str]) -> ClientServerConfig:
    return ClientServerConfig(server_command=[sys.executable, "-I", "-m", "lsp_server"], server_env=environment)


@pytest_asyncio.fixture
async def client(config: ClientServerConfig) -> AsyncGenerator[LanguageClient]:
    """An editor that can show progress."""
    client = await config.start()
    assert isinstance(client, LanguageClient)
    statuses: asyncio.Queue[Any] = asyncio.Queue()
    client.feature("treeline/status")(lambda status: statuses.put_nowait(status))
    client.statuses = statuses  # pyright: ignore[reportAttributeAccessIssue]
    await client.initialize_session(
        types.InitializeParams(client_capabilities("neovim"), process_id=None, initialization_options=SETTINGS)
    )
    yield client
    await client.shutdown_session()
    await client.stop()


async def ready(client: Any, state: str = "ready") -> list[Any]:
    """Wait until the model is loaded, or for another state; return what was said on the way."""
    said = [await client.statuses.get()]
    while said[-1].state != state:
        assert said[-1].state != "failed", said[-1].message
        said.append(await client.statuses.get())
    return said


def open_document(client: LanguageClient, uri: str, text: str = TEXT) -> None:
    item = types.TextDocumentItem(uri, "python", 1, text)
    client.text_document_did_open(types.DidOpenTextDocumentParams(item))


async def complete(client: LanguageClient, uri: str, place: types.Position = END) -> list[types.InlineCompletionItem]:
    context = types.InlineCompletionContext(types.InlineCompletionTriggerKind.Invoked)
    params = types.InlineCompletionParams(context, types.TextDocumentIdentifier(uri), place)
    found = await client.text_document_inline_completion_async(params)
    assert isinstance(found, types.InlineCompletionList)
    return list(found.items)


@pytest.mark.asyncio
async def test_from_a_cold_start_to_an_accepted_suggestion(client: Any) -> None:
    uri = "file:///project/lines.py"
    open_document(client, uri)
    assert await complete(client, uri) == []  # the model is not there yet, and nobody is kept waiting
    said = await ready(client)
    assert "loading" in [status.state for status in said]
    first = (await complete(client, uri))[0]
    reports = [each for values in client.progress_reports.values() for each in values]
    assert [type(report) for report in reports][:1] == [types.WorkDoneProgressBegin]
    assert any(isinstance(report, types.WorkDoneProgressEnd) for report in reports)
    assert isinstance(first.insert_text, str)
    assert first.range == types.Range(END, END)
    change = types.TextDocumentContentChangePartial(types.Range(END, END), text=first.insert_text)
    identifier = types.VersionedTextDocumentIdentifier(2, uri)
    client.text_document_did_change(types.DidChangeTextDocumentParams(identifier, [change]))
    command = types.ExecuteCommandParams("treeline.server.statistics")
    statistics = await client.workspace_execute_command_async(command)
    found = statistics if isinstance(statistics, dict) else statistics._asdict()
    assert found["accepted"] == 1
    assert found["charactersSaved"] == len(first.insert_text)


@pytest.mark.asyncio
async def test_typing_through_a_suggestion(client: Any) -> None:
    uri = "file:///project/through.py"
    open_document(client, uri)
    await ready(client)
    first = (await complete(client, uri))[0]
    text = str(first.insert_text)
    for number, char in enumerate(text[:4]):
        place = types.Position(5, 8 + number)
        change = types.TextDocumentContentChangePartial(types.Range(place, place), text=char)
        identifier = types.VersionedTextDocumentIdentifier(2 + number, uri)
        client.text_document_did_change(types.DidChangeTextDocumentParams(identifier, [change]))
        item = (await complete(client, uri, types.Position(5, 9 + number)))[0]
        assert item.insert_text == text
        assert item.range == types.Range(END, types.Position(5, 9 + number))


@pytest.mark.asyncio
async def test_the_engine_is_restarted(client: Any) -> None:
    uri = "file:///project/restart.py"
    open_document(client, uri)
    await ready(client)
    before = await complete(client, uri)
    await client.workspace_execute_command_async(types.ExecuteCommandParams("treeline.server.restart"))
    await ready(client, "starting")
    await ready(client)
    assert (await complete(client, uri))[0].insert_text == before[0].insert_text
