"""The engine in the background as the language server sees it: the real daemon with the bundled pair."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import TreelineError
from engine.launch import running
from engine.request import CompletionChunk, CompletionRequest
from lsp_server import engine_client
from lsp_server.engine_client import EngineClient, EngineState
from lsp_server.generation import Generation
from tests.lsp_server.scripted import place
from tests.server.serving import private_daemons

REQUEST = CompletionRequest(prefix="def area(width, height):\n    return ", max_tokens=8)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    with private_daemons(tmp_path / "run") as environment:
        for name in ("TREELINE_RUNTIME_DIR", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(name, environment[name])
        yield environment


def run(check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(check(), 120))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


async def text_of(client: EngineClient) -> str:
    return "".join([chunk.text async for chunk in client.stream(REQUEST, "a.py")])


def test_it_is_started_loads_answers_and_comes_back_after_a_crash(environment: dict[str, str]) -> None:
    async def check() -> None:
        states: list[EngineState] = []
        client = EngineClient(states.append)
        assert not client.ready
        client.connect()
        await until(lambda: client.ready)
        assert client.state.model == "bundled"
        text = await text_of(client)
        assert text
        [daemon] = running(environment)
        os.kill(daemon.pid, signal.SIGKILL)
        with contextlib.suppress(TreelineError):  # it may have been too late for this one
            assert await text_of(client) == text
        await until(lambda: client.ready)
        assert await text_of(client) == text
        await client.close()

    run(check)


class _Backend:
    """An engine that is found at the second try, and cannot be ended."""

    def __init__(self, connecting: asyncio.Event) -> None:
        self._connecting = connecting

    async def connect(self) -> None:
        await self._connecting.wait()

    async def restart(self) -> None:
        raise TreelineError("process 7 does not end")

    async def close(self) -> None:
        pass


def test_restarting_while_it_starts_looks_for_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        there = asyncio.Event()
        monkeypatch.setattr(engine_client, "_backend", lambda *_: _Backend(there))
        client = EngineClient(lambda state: None)
        client.connect()
        await client.restart()  # it has looked for nothing yet
        await asyncio.sleep(0.1)
        assert client.state.kind == "starting"
        there.set()
        await until(lambda: client.ready)
        with pytest.raises(TreelineError, match="process 7"):
            await client.restart()
        await until(lambda: client.ready)
        await client.close()

    run(check)


def test_whatever_keeps_it_from_starting_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/gone/bin/python")

    async def check() -> None:
        monkeypatch.setattr(engine_client, "_backend", gone)
        client = EngineClient(lambda state: None)
        client.connect()
        await until(lambda: client.state.kind == "failed")
        assert "/gone/bin/python" in client.state.message
        there = asyncio.Event()
        there.set()
        monkeypatch.setattr(engine_client, "_backend", lambda *_: _Backend(there))
        await until(lambda: client.ready)
        await client.close()

    run(check)


def test_restarting_starts_another(environment: dict[str, str]) -> None:
    async def check() -> None:
        client = EngineClient(lambda state: None)
        client.connect()
        await until(lambda: client.ready)
        [before] = running(environment)
        await client.restart()
        await until(lambda: client.ready)
        [after] = running(environment)
        assert before.pid != after.pid
        await client.close()

    run(check)


def test_a_configuration_that_cannot_be_used_is_said(tmp_path: Path, environment: dict[str, str]) -> None:
    async def check() -> None:
        file = tmp_path / "config.toml"
        file.write_text('modle = "bundled"\n')
        client = EngineClient(lambda state: None, file)
        client.connect()
        await until(lambda: client.state.kind == "failed")
        assert 'unknown key "modle"' in client.state.message
        file.write_text(f'model = "{tmp_path / "nothing"}"\n')
        client.connect()
        await until(lambda: client.state.kind == "failed" and "nothing" in client.state.message)
        await client.close()

    run(check)


def test_what_its_client_does_not_expect_is_an_error_too(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('url = "http://127.0.0.1:9/v1"\n')

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("engine.remote.RemoteClient.__init__", fail)

    async def check() -> None:
        client = EngineClient(lambda state: None, file)
        client.connect()
        await until(lambda: client.ready)
        with pytest.raises(TreelineError, match="the client of the server at url has failed"):
            await text_of(client)
        await client.close()

    run(check)


def test_a_suggestion_that_breaks_off_for_any_reason_says_so() -> None:
    async def breaks() -> AsyncGenerator[CompletionChunk]:
        yield CompletionChunk("a", ())
        raise UnicodeEncodeError("ascii", "ü", 0, 1, "no")

    async def check() -> None:
        generation = Generation(place("x = "))
        ended: list[Generation] = []
        generation.run(breaks(), lambda _: None, ended.append)
        await until(lambda: bool(ended))
        assert (generation.text, generation.broken) == ("a", True)
        assert generation.error == "internal error (UnicodeEncodeError)"

    run(check)


def test_a_server_elsewhere_takes_its_place(environment: dict[str, str], tmp_path: Path) -> None:
    from tests.server.serving import TOKEN, serve

    async def check() -> None:
        client = EngineClient(lambda state: None, file)
        client.connect()
        await until(lambda: client.ready)
        assert await text_of(client)
        endless = client.stream(CompletionRequest(prefix="x = ", max_tokens=4000), "a.py")
        await anext(endless)
        await endless.aclose()
        file.write_text(f'url = "{served.url}/v1"\napi_key = "wrong"\n')
        await client.restart()
        await until(lambda: client.ready)
        with pytest.raises(TreelineError, match="refuses the key"):
            await text_of(client)
        assert not client.ready, "asking again at once would help nobody"
        assert "refuses the key" in client.state.message
        await client.close()

    with serve(tmp_path / "serve") as served:
        file = tmp_path / "config.toml"
        file.write_text(f'url = "{served.url}/v1"\napi_key = "{TOKEN}"\n')
        run(check)
