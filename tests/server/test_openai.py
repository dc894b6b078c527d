"""The `openai` package, unmodified, against `treeline serve`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.completion_choice import Logprobs

from engine.engine import Engine
from engine.request import CompletionRequest, SamplingParams
from tests.server.serving import TOKEN, Served

PROMPT = "def area(width, height):\n    "
TURN = [{"role": "user", "content": "def area(width, height):"}]


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def chat(chat_server: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{chat_server.url}/v1", api_key=TOKEN, max_retries=0) as made:
        yield made


def text_of(engine: Engine, prompt: str, suffix: str = "", max_tokens: int = 16, **sampling: float) -> str:
    request = CompletionRequest(prompt, suffix, max_tokens=max_tokens, sampling=SamplingParams(**sampling))  # type: ignore[arg-type]
    return "".join(chunk.text for chunk in engine.complete(request))


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError, match="no model is called"):
        client.models.retrieve("gpt-4")


@pytest.mark.parametrize("suffix", ["", "\n\nprint(area(2, 3))\n"])
def test_a_completion_is_the_engines(client: OpenAI, engine: Engine, suffix: str) -> None:
    answer = client.completions.create(model="any", prompt=PROMPT, suffix=suffix, temperature=0, max_tokens=16)
    (choice,) = answer.choices
    assert choice.text == text_of(engine, PROMPT, suffix)
    assert choice.finish_reason == "length"
    assert answer.object == "text_completion"
    assert answer.usage
    assert answer.usage.completion_tokens == 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 16


def test_a_stream_is_the_same_in_pieces(client: OpenAI, engine: Engine) -> None:
    options = {"stream_options": {"include_usage": True}, "temperature": 0, "max_tokens": 32}
    chunks = list(client.completions.create(model="any", prompt=PROMPT, stream=True, **options))  # type: ignore[call-overload]
    *pieces, usage = chunks
    assert "".join(piece.choices[0].text for piece in pieces) == text_of(engine, PROMPT, max_tokens=32)
    assert len(pieces) > 2
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices[0].finish_reason] == ["length"]
    assert usage.choices == []
    assert usage.usage
    assert usage.usage.completion_tokens == 32
    assert all(piece.usage is None for piece in pieces)
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_same_seed_gives_the_same_text(client: OpenAI, engine: Engine) -> None:
    def sample(seed: int | None) -> str:
        return client.completions.create(model="x", prompt=PROMPT, seed=seed, max_tokens=24, top_p=0.95).choices[0].text  # type: ignore[arg-type]

    assert sample(7) == sample(7) == text_of(engine, PROMPT, max_tokens=24, temperature=1.0, top_p=0.95, seed=7)
    assert len({sample(None) for _ in range(6)}) > 1


def test_n_choices_have_a_seed_each(client: OpenAI, engine: Engine) -> None:
    answer = client.completions.create(model="x", prompt=[PROMPT, "import "], n=2, seed=5, max_tokens=8)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    expected = [
        text_of(engine, prompt, max_tokens=8, temperature=1.0, seed=seed)
        for prompt in (PROMPT, "import ")
        for seed in (5, 6)
    ]
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage
    assert answer.usage.completion_tokens == 32


def test_a_stop_string_ends_the_text_and_is_not_shown(client: OpenAI) -> None:
    whole = client.completions.create(model="x", prompt=PROMPT, temperature=0, max_tokens=32).choices[0].text
    word = max(whole.split()[1:], key=len)
    for stop in (word, ["no such text", word]):
        (choice,) = client.completions.create(model="x", prompt=PROMPT, temperature=0, max_tokens=32, stop=stop).choices
        assert (choice.text, choice.finish_reason) == (whole.split(word)[0], "stop")


def test_logprobs(client: OpenAI) -> None:
    (choice,) = client.completions.create(model="x", prompt=PROMPT, temperature=0, max_tokens=8, logprobs=2).choices
    found = choice.logprobs
    assert found
    assert found.tokens
    assert found.token_logprobs
    assert found.top_logprobs
    assert found.text_offset
    assert len(found.tokens) == 8
    for token, logprob, best in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert best[token] == logprob == max(best.values())  # greedy: the chosen one is the best
    assert found.text_offset[0] == 0


def logprobs_of(client: OpenAI, prompt: str, **options: object) -> tuple[Logprobs, Logprobs, str]:
    """Return the log-probabilities of a completion as a whole and put together from a stream, and its text."""
    given = {"model": "x", "prompt": prompt, "temperature": 0, "max_tokens": 12, "logprobs": 20, **options}
    (choice,) = client.completions.create(**given).choices  # type: ignore[call-overload]
    pieces = [piece.choices[0] for piece in client.completions.create(**given, stream=True)]  # type: ignore[call-overload]
    parts = [piece.logprobs for piece in pieces if piece.logprobs]
    fields = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    streamed = Logprobs.model_validate(
        {field: [each for part in parts for each in getattr(part, field)] for field in fields}
    )
    assert "".join(piece.text for piece in pieces) == choice.text
    return choice.logprobs, streamed, choice.text


@pytest.mark.parametrize("prompt", [PROMPT, "def area(width, height):\n    retu", "word = 'naïve 日本語', '日本"])
def test_offsets_are_places_in_the_text(client: OpenAI, prompt: str) -> None:
    whole, streamed, text = logprobs_of(client, prompt)
    assert streamed == whole
    assert whole.tokens
    assert whole.text_offset
    ends = [*whole.text_offset[1:], len(text)]
    shown = [text[start:end] for start, end in zip(whole.text_offset, ends, strict=True)]
    assert "".join(shown) == text
    if text.isascii():
        typed = "".join(whole.tokens).removesuffix(text)  # token healing: said once more, but no part of the text
        assert prompt.endswith(typed)
        assert shown[0] == whole.tokens[0].removeprefix(typed)
        assert shown[1:] == whole.tokens[1:]
    else:
        assert any(token.startswith("bytes:") for token in whole.tokens)


def test_parts_of_a_character_are_told_apart(client: OpenAI) -> None:
    found, _, _ = logprobs_of(client, "flags = ['🌲', '🌳', '", temperature=2, seed=3)
    assert found.top_logprobs
    assert found.tokens
    spelled = [key for best in found.top_logprobs for key in best]
    parts = [key for key in spelled if key.startswith("bytes:")]
    assert all(re.fullmatch(r"bytes:(\\x[0-9a-f]{2})+", part) for part in parts)
    assert parts
    assert not any("\ufffd" in key for key in [*spelled, *found.tokens])
    assert {len(best) for best in found.top_logprobs} == {20}


def test_a_chat_answers_whole_and_in_pieces(chat: OpenAI) -> None:
    options = {"model": "chatty", "messages": TURN, "max_tokens": 12, "temperature": 0}
    answer = chat.chat.completions.create(**options)  # type: ignore[call-overload]
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("length", "stop")
    pieces = list(chat.chat.completions.create(**options, stream=True))  # type: ignore[call-overload]
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == answer.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == answer.choices[0].finish_reason


def test_chat_takes_parts_and_gives_logprobs(chat: OpenAI) -> None:
    parts = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "def area(width, "}, {"type": "text", "text": "height):"}],
        }
    ]
    options = {"model": "x", "max_completion_tokens": 4, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    whole, joined = (chat.chat.completions.create(messages=turns, **options) for turns in (TURN, parts))  # type: ignore[call-overload]
    assert whole.choices[0].message.content == joined.choices[0].message.content
    listed = whole.choices[0].logprobs.content
    assert len(listed) == 4
    assert all(bytes(each.bytes).decode("utf-8", "replace") == each.token for each in listed)
    assert all(each.logprob == each.top_logprobs[0].logprob and len(each.top_logprobs) == 3 for each in listed)


def test_chat_with_a_model_that_has_no_template_is_refused(client: OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(model="x", messages=TURN, stream=stream)  # type: ignore[call-overload]


def test_a_conversation_beyond_the_context_is_refused(chat: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="drop its oldest messages"):
        chat.chat.completions.create(model="x", messages=[{"role": "user", "content": "x = 1\n" * 1000}])


def test_a_prompt_beyond_the_context_is_cut_at_its_start(client: OpenAI) -> None:
    long = "".join(f"value_{number} = {number}\n" for number in range(3000))
    answer = client.completions.create(model="x", prompt=long, temperature=0, max_tokens=4)
    assert answer.usage
    assert answer.usage.completion_tokens == 4


def test_an_empty_prompt_and_absurd_lengths_are_answered(client: OpenAI) -> None:
    assert client.completions.create(model="x", prompt="", max_tokens=4).choices[0].finish_reason
    answer = client.completions.create(model="x", prompt="# end", max_tokens=10**15, stop=["\n"], temperature=0)
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_the_wrong_key_is_refused(server: Served) -> None:
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError, match="wrong or missing token"),
    ):
        stranger.completions.create(model="x", prompt="x")


WRONG = [
    ({"prompt": 3}, "prompt"),
    ({"prompt": ["a", 3]}, "prompt[1]"),
    ({}, "prompt"),
    ({"prompt": "x", "max_tokens": "many"}, "max_tokens"),
    ({"prompt": "x", "max_tokens": 1.5}, "max_tokens"),
    ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "x", "max_tokens": True}, "max_tokens"),
    ({"prompt": "x", "temperature": "hot"}, "temperature"),
    ({"prompt": "x", "temperature": -1}, "temperature"),
    ({"prompt": "x", "top_p": 2}, "top_p"),
    ({"prompt": "x", "n": 0}, "n"),
    ({"prompt": ["x"] * 9, "n": 2}, "n"),
    ({"prompt": "x", "stop": 4}, "stop"),
    ({"prompt": "x", "seed": "s"}, "seed"),
    ({"prompt": "x", "stream": "yes"}, "stream"),
    ({"prompt": "x", "stream_options": {"include_usage": 3}}, "stream_options.include_usage"),
    ({"prompt": "x", "logprobs": 500}, "logprobs"),
    ({"prompt": "x", "echo": True}, "echo"),
]
OUT_OF_BOUNDS = [  # each could be of another type too, which was not what was wrong
    ({"prompt": "x", "stop": ["a"] * 17}, "stop: List should have at most 16 items after validation, not 17"),
    ({"prompt": []}, "prompt: List should have at least 1 item after validation, not 0"),
    ({"prompt": ["x"] * 17}, "prompt: List should have at most 16 items after validation, not 17"),
]


@pytest.mark.parametrize(("body", "complaint"), OUT_OF_BOUNDS)
def test_too_many_or_too_few_are_said(server: Served, body: dict[str, object], complaint: str) -> None:
    response = httpx.post(f"{server.url}/v1/completions", json=body, headers=server.headers)
    assert (response.status_code, response.json()["error"]["message"]) == (400, complaint)


@pytest.mark.parametrize(("body", "param"), WRONG)
def test_a_wrong_type_is_400_and_names_the_field(server: Served, body: dict[str, object], param: str) -> None:
    response = httpx.post(f"{server.url}/v1/completions", json=body, headers=server.headers)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param in error["message"]


def test_unknown_fields_and_nulls_are_ignored(server: Served) -> None:
    nulls = dict.fromkeys(("suffix", "temperature", "stop", "seed", "stream", "n", "logprobs", "stream_options"))
    body = {"prompt": "x", "max_tokens": 2, "frobnicate": {"a": [1]}, "user": "me", "best_of": 1, **nulls}
    assert httpx.post(f"{server.url}/v1/completions", json=body, headers=server.headers).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"prompt": "\\ud800"}', b"{}" * 9])
def test_what_is_no_json_object_is_400(server: Served, body: bytes) -> None:
    response = httpx.post(f"{server.url}/v1/completions", content=body, headers=server.headers)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_unknown_paths_and_methods_have_openais_shape(server: Served) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/v1/completions", 405), ("POST", "/health", 405)):
        response = httpx.request(method, f"{server.url}{path}", headers=server.headers)
        assert response.status_code == status
        assert response.json()["error"]["message"]


def test_text_outside_the_basic_plane_comes_back_as_it_went(server: Served) -> None:
    response = httpx.post(
        f"{server.url}/v1/completions",
        content=json.dumps({"prompt": "# 🌲 ü\nname = '🌲", "max_tokens": 4, "temperature": 0}).encode(),
        headers=server.headers,
    )
    assert response.status_code == 200
