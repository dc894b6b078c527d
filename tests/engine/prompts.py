"""Prompts of the small tokenizers' families, for the tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.layouts import choose_layout
from engine.prompt import Prompt, build_prompt
from engine.request import CompletionRequest
from engine.tokenizer import Tokenizer
from tests.engine.small_tokenizers import write_tokenizer

PREFIX = "import os\n\n\ndef f(x):\n    pri"
SUFFIX = "\n    return x\n"


@cache
def load(family: str) -> Tokenizer:
    with TemporaryDirectory() as directory:
        return Tokenizer.load(write_tokenizer(family, Path(directory)))


def spelled(tokenizer: Tokenizer, ids: tuple[int, ...]) -> str:
    """The text of `ids` with control tokens by name."""
    names = {token: text for text, token in tokenizer._ids.items()}
    runs: list[bytes] = []
    for token in ids:
        runs.append(names[token].encode() if token in tokenizer.control_ids else tokenizer.token_bytes(token))
    return b"".join(runs).decode()


def prompt_of(family: str, *, name: str | None = None, window: int = 2048, **fields: object) -> Prompt:
    tokenizer = load(family)
    values: dict[str, object] = {"prefix": PREFIX, "suffix": SUFFIX, "path": "pkg/main.py", "language": "python"}
    request = CompletionRequest(**(values | fields))  # type: ignore[arg-type]
    return build_prompt(request, tokenizer, choose_layout(tokenizer, name), window)
