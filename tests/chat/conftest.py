"""A checkpoint with a chat template, for all tests of chat."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.hub import ASSETS

TEMPLATE = "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}"


@pytest.fixture(scope="session")
def chat_pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name the bundled weights with a chat template: what they say is code, but a conversation it is."""
    target = tmp_path_factory.mktemp("chat") / "chatty"
    shutil.copytree(ASSETS / "target", target)
    config = target / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": TEMPLATE}))
    return ["--model", str(target), "--drafter", str(ASSETS / "drafter")]


@pytest.fixture(scope="session")
def chat_model(chat_pair: list[str]) -> Path:
    """The folder of that checkpoint."""
    return Path(chat_pair[1])
