"""Conversations in a model's own template, up to the engine's answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pairs import CONTEXT, PairPaths
from small_tokenizers import write_tokenizer

from engine.chat_template import ChatTemplate
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.hub import resolve
from engine.request import ChatMessage, CompletionRequest
from engine.tokenizer import Tokenizer
from tests.engine.prompts import spelled

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.role }}:\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
)
ASKED = (ChatMessage("user", "def area(width, height):"),)


def give_template(directory: Path, template: str) -> None:
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


def test_the_template_lays_out_the_conversation(tmp_path: Path) -> None:
    asked = [ChatMessage("user", "hi <|eot_id|>")]
    with pytest.raises(TreelineError, match="cannot be loaded for chat"):
        ChatTemplate(tmp_path).render(asked)
    write_tokenizer("llama3", tmp_path)
    with pytest.raises(TreelineError, match="no chat template"):
        ChatTemplate(tmp_path).render(asked)
    plain = ChatTemplate(tmp_path)
    plain.preload()
    assert plain._loaded is None
    give_template(tmp_path, "<|begin_of_text|>" + TEMPLATE.replace("content }}", "content }}<|eot_id|>"))
    template, tokenizer = ChatTemplate(tmp_path), Tokenizer.load(tmp_path)
    template.preload()
    assert template._loaded is not None
    ids = template.render(asked)
    assert spelled(tokenizer, tuple(ids)) == "<|begin_of_text|>user:\nhi <|eot_id|><|eot_id|>\nassistant:\n"
    assert ids[0] == tokenizer.bos_id
    with pytest.raises(TreelineError, match="refuses these messages: no tools"):
        template.render([ChatMessage("tool", "")])


def test_a_refusal_names_the_model_and_not_its_folder(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TreelineError, match="^bundled: this model has no chat template"):
        ChatTemplate(resolve("bundled")).render(ASKED)
    assert capfd.readouterr().err == ""  # transformers has thoughts about the RoPE of the bundled pair


def test_a_tokenizer_that_cannot_be_loaded_is_called_by_its_model(tmp_path: Path) -> None:
    with pytest.raises(TreelineError) as refused:
        ChatTemplate(tmp_path / "my-coder").render(ASKED)
    assert str(refused.value).startswith("my-coder: ")
    assert str(tmp_path) not in str(refused.value)


@pytest.fixture(scope="module")
def engine(pair_paths: PairPaths, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The small float32 target, with a chat template."""
    target = tmp_path_factory.mktemp("chat") / "target"
    shutil.copytree(pair_paths.target, target)
    give_template(target, TEMPLATE)
    return Engine.load(EngineConfig(model=str(target), drafter=str(pair_paths.drafter)))


def test_the_answer_continues_the_rendered_conversation(engine: Engine) -> None:
    request = CompletionRequest(prefix="", messages=ASKED, max_tokens=8)
    rendered = engine.prompt(request)
    assert engine.tokenizer.decode(rendered.ids) == "user:\ndef area(width, height):\nassistant:\n"
    last = list(engine.complete(request))[-1]
    assert last.stats is not None
    assert last.stats.prompt_tokens == len(rendered.ids)


def test_a_second_turn_computes_only_what_is_new(engine: Engine) -> None:
    engine.reset()
    chunks = list(engine.complete(CompletionRequest(prefix="", messages=ASKED, max_tokens=8)))
    list(engine.complete(CompletionRequest(prefix="import os\n")))  # has caches of its own
    answer = ChatMessage("assistant", "".join(chunk.text for chunk in chunks))
    again = CompletionRequest(prefix="", messages=(*ASKED, answer, ChatMessage("user", "x")), max_tokens=4)
    last = list(engine.complete(again))[-1]
    assert last.stats is not None
    assert last.stats.cached_tokens >= len(engine.prompt(CompletionRequest(prefix="", messages=ASKED)).ids)


def test_a_conversation_beyond_the_context_is_refused(engine: Engine) -> None:
    long = (ChatMessage("user", "value = 1\n" * CONTEXT),)
    with pytest.raises(TreelineError, match=f"the context {CONTEXT}: drop its oldest messages"):
        list(engine.complete(CompletionRequest(prefix="", messages=long)))
