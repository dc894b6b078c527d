"""From a conversation to the token ids that a chat model sees, by the template that comes with the model."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from engine.errors import ContextOverflowError, TreelineError
from engine.hub import name_of
from engine.prompt import Prompt
from engine.request import ChatMessage, CompletionRequest
from engine.tokenizer import Tokenizer


class ChatTemplate:
    """The template of one checkpoint, loaded when it is first used: most requests need none."""

    def __init__(self, directory: Path) -> None:
        """`directory`: the checkpoint's, with `chat_template` in tokenizer_config.json or chat_template.jinja."""
        self._directory = directory
        self._name = name_of(directory)  # in messages, which go to clients on other machines, too
        self._loaded: Any = None

    def render(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the ids of a conversation up to where the assistant's next message begins.

        `messages` have `role` and `content`. Raises TreelineError if the model has no template, or refuses them.
        """
        from jinja2 import TemplateError  # what chat templates are written in; torch brings it

        tokenizer = self._tokenizer()
        turns = [asdict(turn) for turn in messages]
        try:
            ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        except (TemplateError, ValueError, TypeError) as error:
            raise TreelineError(f"{self._name}: the chat template refuses these messages: {error}") from error
        return cast("list[int]", list(ids))

    def preload(self) -> None:
        """Take now what the first conversation would take, if the model has a template: 180 MiB and more."""
        config = self._directory / "tokenizer_config.json"
        if (self._directory / "chat_template.jinja").exists() or (
            config.exists() and b'"chat_template"' in config.read_bytes()
        ):
            with suppress(TreelineError):  # the conversation will be told
                self._tokenizer()

    def _tokenizer(self) -> Any:
        """Load the tokenizer as transformers has it, which is slow."""
        if self._loaded is not None:
            return self._loaded
        from transformers import AutoTokenizer

        loader: Any = AutoTokenizer
        try:
            with _without_advice():
                tokenizer = loader.from_pretrained(str(self._directory), trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0].replace(str(self._directory), self._name)
            raise TreelineError(f"{self._name}: its tokenizer cannot be loaded for chat: {reason}") from error
        if not tokenizer.chat_template:
            raise TreelineError(
                f"{self._name}: this model has no chat template: it only completes code; choose an Instruct one"
            )
        self._loaded = tokenizer
        return tokenizer


@contextmanager
def _without_advice() -> Generator[None]:
    """Keep transformers from warning of what a configuration says of the model, such as its RoPE: none is loaded."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def build_chat_prompt(request: CompletionRequest, tokenizer: Tokenizer, template: ChatTemplate, window: int) -> Prompt:
    """Lay out the conversation of `request` for a model that holds `window` tokens.

    Raises ContextOverflowError if it leaves no room for an answer: nothing of a conversation is dropped silently.
    """
    ids = template.render(request.messages)
    if len(ids) >= window:
        raise ContextOverflowError(
            f"the conversation has {len(ids)} tokens, the context {window}: drop its oldest messages, or shorten them"
        )
    return Prompt(
        ids=tuple(ids),
        required=b"",
        dropped=(),
        stop_ids=frozenset(tokenizer.eos_ids),
        max_new=min(request.max_tokens, window - len(ids)),
        layout="chat",
    )
