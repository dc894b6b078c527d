"""`/infill` as its two clients use it: the requests that they send, the fields that they read.

Sources: ggml-org/llama.vim at a1c8e6e, autoload/llama.vim (`llama#fim`, `s:fim_on_response`, `s:fim_render`, and
`s:ring_update` for the warming request); ggml-org/llama.vscode at 3938fb3, src/llama-server.ts (`createRequestPayload`,
`defaultRequestParams`), src/statusbar.ts (`showInfo`), src/types.ts (`LlamaResponse`); what the fields mean is said in
tools/server/README.md in ggml-org/llama.cpp.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from engine.engine import Engine
from engine.request import CompletionRequest, ContextFile, StopRules
from engine.server.infill import InfillBody
from tests.server.serving import Served

PREFIX = "import math\n\n\ndef area(width, height):\n"
MIDDLE = "    return "
SUFFIX = "\n\n\nprint(area(2, 3))\n"
EXTRA = [
    {"text": "def perimeter(width, height):\n    return 2 * (width + height)\n", "time": 12.5, "filename": "shapes.py"}
]

VIM_TIMINGS = [
    f"timings/{phase}_{field}"
    for phase in ("prompt", "predicted")
    for field in ("n", "ms", "per_token_ms", "per_second")
]
VIM_FIELDS = ["content", *VIM_TIMINGS, "truncated", "tokens_cached"]
VIM = {
    "id_slot": 0,
    "input_prefix": PREFIX,
    "input_suffix": SUFFIX,
    "input_extra": EXTRA,
    "prompt": MIDDLE,
    "n_predict": 24,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": VIM_FIELDS,
    "model": "",
}
VIM_WARMING = {
    "id_slot": 0,
    "input_prefix": "",
    "input_suffix": "",
    "input_extra": EXTRA,
    "prompt": "",
    "n_predict": 0,
    "temperature": 0.0,
    "samplers": [],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
    "response_fields": [""],
}
VSCODE_CHUNKS = [{"text": EXTRA[0]["text"], "time": 1726000000000, "filename": "file:///home/me/shapes.py"}]
VSCODE = {
    "id_slot": 0,
    "input_prefix": PREFIX,
    "input_suffix": SUFFIX,
    "input_extra": VSCODE_CHUNKS,
    "prompt": MIDDLE,
    "n_predict": 24,
    "n_cmpl": 1,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "n_indent": 4,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 2500,
}
VSCODE_WARMING = {
    "id_slot": 0,
    "input_prefix": PREFIX,
    "input_suffix": SUFFIX,
    "input_extra": VSCODE_CHUNKS,
    "prompt": MIDDLE,
    "n_predict": 0,
    "samplers": [],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1,
}


# `llama#inst`: while the instruction is typed, and with it.
VIM_INSTRUCTION_WARMING = {
    "id_slot": 0,
    "messages": [{"role": "system", "content": "You are an editor."}, {"role": "user", "content": ""}],
    "samplers": [],
    "n_predict": 0,
    "stream": False,
    "cache_prompt": True,
    "response_fields": [""],
    "model": "",
}
VIM_INSTRUCTION = {
    "id_slot": 0,
    "messages": [{"role": "system", "content": "You are an editor."}, {"role": "user", "content": "INSTRUCTION: go"}],
    "min_p": 0.1,
    "temperature": 0.1,
    "samplers": ["min_p", "temperature"],
    "stream": True,
    "cache_prompt": True,
    "model": "",
}


def ask(server: Served, body: object) -> httpx.Response:
    return httpx.post(f"{server.url}/infill", json=body, headers=server.headers, timeout=60)


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of a stream, or the one answer."""
    return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]


def text_of(engine: Engine, body: dict[str, object]) -> str:
    request = CompletionRequest(
        PREFIX + MIDDLE,
        SUFFIX,
        context=tuple(ContextFile(extra["filename"], extra["text"]) for extra in body["input_extra"]),  # type: ignore[attr-defined]
        max_tokens=24,
        stop=StopRules(min_indent=4),
    )
    return "".join(chunk.text for chunk in engine.complete(request))


def test_llama_vim_gets_what_it_reads(server: Served, engine: Engine) -> None:
    response = ask(server, VIM)
    raw = response.text
    assert raw.startswith("{")  # what llama.vim looks for before it decodes
    assert '"content":"' in raw
    answer = response.json()
    assert set(answer) == set(VIM_FIELDS)  # flat keys, the slash in their names
    assert answer["content"] == text_of(engine, VIM)
    assert answer["timings/predicted_n"] > 0
    assert answer["timings/prompt_ms"] > 0
    assert answer["tokens_cached"] > 0
    assert answer["truncated"] is False


def test_llama_vscode_gets_what_it_reads(server: Served, engine: Engine) -> None:
    answer = ask(server, VSCODE).json()
    assert answer["content"] == text_of(engine, VSCODE)
    assert answer["generation_settings"]["n_ctx"] == engine.context
    assert isinstance(answer["tokens_cached"], int)
    for phase in ("prompt", "predicted"):
        for field in ("n", "ms", "per_second"):
            assert isinstance(answer["timings"][f"{phase}_{field}"], int | float)


@pytest.mark.parametrize("warming", [VIM_WARMING, VSCODE_WARMING], ids=["vim", "vscode"])
def test_a_request_for_no_tokens_gives_none(server: Served, warming: dict[str, object]) -> None:
    answer = ask(server, warming)
    assert answer.status_code == 200
    assert answer.json().get("content", "") == ""


def test_a_request_for_no_tokens_fills_the_cache(server: Served) -> None:
    other = {"input_prefix": "# nothing in common\nx = ", "input_suffix": "", "n_predict": 1}
    ask(server, other)
    ask(server, VSCODE_WARMING)
    timings = ask(server, VSCODE).json()["timings"]
    assert timings["cache_n"] > 0
    assert timings["prompt_n"] <= 8  # what token healing takes back


def test_llama_vims_instructions_are_chats_and_their_warming_says_nothing(chat_server: Served) -> None:
    url, headers = f"{chat_server.url}/v1/chat/completions", chat_server.headers
    warmed = httpx.post(url, json=VIM_INSTRUCTION_WARMING, headers=headers, timeout=60).json()
    assert warmed["choices"][0]["message"]["content"] == ""
    assert warmed["usage"]["completion_tokens"] <= 1
    usage = {"stream_options": {"include_usage": True}, "n_predict": 12}  # asked for by the test alone
    with httpx.stream(
        "POST", url, json=VIM_INSTRUCTION_WARMING | {"stream": True}, headers=headers, timeout=60
    ) as response:
        warmed = [json.loads(line[6:])["choices"][0] for line in response.iter_lines() if line[6:7] == "{"]
    assert not any(piece["delta"].get("content") for piece in warmed)
    assert warmed[-1]["finish_reason"]
    with httpx.stream("POST", url, json=VIM_INSTRUCTION | usage, headers=headers, timeout=60) as response:
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"  # the only line that llama.vim does not decode
    pieces = [json.loads(line[6:]) for line in lines[:-1]]
    assert all("delta" in piece["choices"][0] for piece in pieces[:-1])
    assert pieces[-1]["usage"]["completion_tokens"] == 12
    assert pieces[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_the_key_may_come_as_llama_vim_sends_it(server: Served) -> None:
    assert httpx.post(f"{server.url}/infill", json=VIM).status_code == 401


def test_time_runs_from_the_first_token_and_waits_for_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.request import CompletionChunk

    now = 0.0
    monkeypatch.setattr("engine.server.infill.time.perf_counter", lambda: now)
    over = InfillBody(t_max_predict_ms=100).time_limit()
    script = [(5.0, "", ()), (9.0, "a", (1,)), (9.2, "b", (2,)), (9.3, "c\n", (3,)), (9.4, "d", (4,))]
    verdicts = []
    for now, text, tokens in script:  # noqa: B007 - read by the clock above
        verdicts.append(over(CompletionChunk(text, tokens)))
    assert verdicts == [False, False, False, True, True]
    unlimited = InfillBody().time_limit()
    assert not unlimited(CompletionChunk("\n", (1,)))


@pytest.mark.parametrize("stream", [False, True])
def test_a_time_limit_ends_the_text_early(server: Served, stream: bool) -> None:
    endless = {"input_prefix": "numbers = [\n", "n_predict": -1, "temperature": 1.5, "seed": 3, "stream": stream}
    limited, free = (events_of(ask(server, endless | {"t_max_predict_ms": limit}))[-1] for limit in (1, None))
    assert limited["stop_type"] in ("limit", "eos")
    assert limited["tokens_predicted"] < min(200, free["tokens_predicted"])


def test_a_stream_for_no_tokens_gives_none(server: Served) -> None:
    events = events_of(ask(server, VSCODE_WARMING | {"stream": True}))
    assert [(event["content"], event["stop"]) for event in events] == [("", True)]


def test_a_stream_ends_with_the_whole_account(server: Served, engine: Engine) -> None:
    events: list[dict[str, object]] = []
    url = f"{server.url}/infill"
    with httpx.stream("POST", url, json=VSCODE | {"stream": True}, headers=server.headers, timeout=60) as response:
        events.extend(json.loads(line[6:]) for line in response.iter_lines() if line)
    assert "".join(str(event["content"]) for event in events) == text_of(engine, VSCODE)
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert "timings" in events[-1]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input_prefix": 1}, "input_prefix"),
        ({"input_extra": [{"text": 3}]}, "input_extra[0].text"),
        ({"input_extra": [{"filename": "a"}]}, "input_extra[0].text"),
        ({"n_predict": "many"}, "n_predict"),
        ({"n_predict": -2}, "n_predict"),
        ({"stop": "x"}, "stop"),
    ],
)
def test_wrong_types_name_the_field(server: Served, body: dict[str, object], param: str) -> None:
    response = ask(server, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_everything_is_optional(server: Served) -> None:
    assert ask(server, {"n_predict": 2}).status_code == 200
    nulls = dict.fromkeys(VIM) | {"n_predict": 2}
    assert ask(server, nulls).status_code == 200
