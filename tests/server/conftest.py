"""Servers that several test modules share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.engine import Engine
from tests.server.serving import Served, serve

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.role }}:\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The bundled pair behind the API."""
    with serve(tmp_path_factory.mktemp("server")) as served:
        yield served


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The bundled pair in this process: what the server's text is compared with."""
    return Engine.load(EngineConfig())


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small float32 checkpoint with a chat template; what it says makes no sense."""
    from tests.engine import pairs

    folder = tmp_path_factory.mktemp("chat")
    paths = pairs.write_pair(folder / "pair")
    target = folder / "chatty"
    shutil.copytree(paths.target, target)
    config = target / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": TEMPLATE}))
    return target


@pytest.fixture(scope="session")
def chat_server(tmp_path_factory: pytest.TempPathFactory, chat_model: Path) -> Iterator[Served]:
    """The chat checkpoint behind the API."""
    with serve(tmp_path_factory.mktemp("chat-server"), ["--model", str(chat_model)]) as served:
        yield served
