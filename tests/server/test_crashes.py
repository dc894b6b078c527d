"""A daemon that ends whenever it loads its model, as under the kernel's out-of-memory killer: clients give up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.asking import ATTEMPTS
from engine.client import AsyncClient, Client
from engine.config import EngineConfig
from engine.errors import TreelineError
from engine.request import CompletionRequest
from engine.runtime import daemon_files
from lsp_server.engine_client import EngineClient, EngineState
from tests.server.serving import private_daemons

SHORT = CompletionRequest("def area(width, height):\n    return ", max_tokens=8)
CRASH = (
    "import os, signal, sys, time\n"
    "sys.path.insert(0, sys.argv[1])\n"
    "def load(*_):\n"
    "    time.sleep(0.3)  # for a request to be told that the model is loading\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
    "from engine.server import daemon, service\n"
    "service._load = load\n"
    "daemon.main(sys.argv[2])"
)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Where every daemon is killed while it loads."""
    monkeypatch.setattr("engine.launch._BOOT", CRASH)
    with private_daemons(tmp_path / "run") as made:
        for name in ("TREELINE_RUNTIME_DIR", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(name, made[name])
        yield made


def ask(environment: dict[str, str]) -> None:
    with Client(environment=environment) as client:
        client.complete(SHORT)


def ask_asynchronously(environment: dict[str, str]) -> None:
    async def work() -> None:
        async with AsyncClient(environment=environment) as client:
            await client.complete(SHORT)

    asyncio.run(asyncio.wait_for(work(), 60))


def connect(environment: dict[str, str]) -> None:
    async def work() -> None:
        async with AsyncClient(environment=environment) as client:
            await client.connect()

    asyncio.run(asyncio.wait_for(work(), 60))


@pytest.mark.parametrize("way", [ask, ask_asynchronously, connect])
def test_it_is_not_started_for_ever(environment: dict[str, str], way: Callable[[dict[str, str]], None]) -> None:
    log = daemon_files(EngineConfig(), environment).log
    complaint = f"the engine ended while it loaded the model: see {log}"
    with pytest.raises(TreelineError, match=f"^{re.escape(complaint)}$"):
        way(environment)
    assert log.read_text().count(", serves ") == ATTEMPTS + 1


def test_editors_are_told(environment: dict[str, str]) -> None:
    log = daemon_files(EngineConfig(), environment).log

    async def check() -> None:
        states: list[EngineState] = []
        client = EngineClient(states.append)
        client.connect()
        while client.state.kind != "failed":
            await asyncio.sleep(0.02)
        assert client.state.message.startswith("the engine ended while it loaded the model")
        started = log.read_text().count(", serves ")
        await asyncio.sleep(0.1)
        assert not client.ready
        await client.close()
        assert log.read_text().count(", serves ") == started

    asyncio.run(asyncio.wait_for(check(), 60))
