"""The clients, against a real server on its Unix socket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from engine.client import AsyncClient, Client
from engine.engine import Engine
from engine.errors import TreelineError
from engine.request import ChatMessage, CompletionRequest, ContextFile, SamplingParams, StopRules
from engine.runtime import runtime_directory
from engine.wire import decode_chunk, encode_request, error_of
from tests.server.serving import Served

SHORT = CompletionRequest("def area(width, height):\n    return ", max_tokens=12, path="a.py")
LONG = CompletionRequest("x = [", max_tokens=1500, sampling=SamplingParams(temperature=1.4, seed=1), path="a.py",
                         stop=StopRules(ignore_end_tokens=True), speculation=False)  # fmt: skip


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with Client(environment=server.environment) as made:
        yield made


def wait_until_idle(server: Served) -> None:
    while httpx.get(f"{server.url}/health").json()["busy"]:
        time.sleep(0.005)


def cancelled_so_far(server: Served) -> int:
    text = httpx.get(f"{server.url}/metrics", headers=server.headers).text
    lines = [line for line in text.splitlines() if 'end="cancelled"' in line]
    return sum(int(line.split()[-1]) for line in lines)


REQUESTS = [
    SHORT,
    CompletionRequest("", max_tokens=3),
    CompletionRequest(
        "é🌲\n", "ü\n", "ä.py", "python", (ContextFile("b.py", "import os\n"),), max_tokens=5, logprobs=2
    ),
    CompletionRequest("x = ", sampling=SamplingParams(0.7, 0.9, 40, 1.1, 2**63), stop=StopRules(("\n",), True, 4)),
    CompletionRequest("x = ", deadline_ms=0.01, budget=3),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_daemons_chunks_are_the_engines(client: Client, engine: Engine, request_: CompletionRequest) -> None:
    ours, theirs = list(engine.complete(request_)), client.complete(request_)
    assert theirs.text == "".join(chunk.text for chunk in ours)
    assert theirs.tokens == tuple(token for chunk in ours for token in chunk.tokens)
    assert theirs.finish_reason == ours[-1].finish_reason
    found, expected = (
        [each.token for each in logprobs] for logprobs in (theirs.logprobs, sum((c.logprobs for c in ours), ()))
    )
    assert found == expected
    assert theirs.stats
    assert ours[-1].stats
    assert theirs.stats.prompt_tokens == ours[-1].stats.prompt_tokens


def test_text_streams_as_it_is_verified(client: Client) -> None:
    chunks = list(client.stream(SHORT))
    assert len([chunk for chunk in chunks if chunk.text]) > 1
    assert [chunk.finish_reason is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]


def test_a_connection_serves_many_requests(client: Client, engine: Engine) -> None:
    texts = {client.complete(SHORT).text for _ in range(5)}
    assert texts == {"".join(chunk.text for chunk in engine.complete(SHORT))}


def test_leaving_a_stream_cancels_its_work(server: Served, client: Client) -> None:
    before = cancelled_so_far(server)
    stream = client.stream(LONG)
    next(stream)
    stream.close()
    wait_until_idle(server)
    assert cancelled_so_far(server) == before + 1
    assert client.complete(SHORT).finish_reason


def test_cancel_from_another_thread_ends_the_stream(server: Served, client: Client) -> None:
    before = cancelled_so_far(server)
    stream = client.stream(LONG)
    next(stream)
    threading.Timer(0.01, client.cancel).start()
    last = list(stream)[-1]
    assert last.finish_reason == "cancelled"
    wait_until_idle(server)
    assert cancelled_so_far(server) == before + 1
    assert client.complete(SHORT).finish_reason != "cancelled"


def test_a_newer_request_for_the_same_document_cancels_the_older(server: Served) -> None:
    with (
        Client(name="editor", environment=server.environment) as first,
        Client(name="editor", environment=server.environment) as second,
    ):
        stream = first.stream(LONG)
        next(stream)
        assert second.complete(SHORT).finish_reason == "length"
        assert list(stream)[-1].finish_reason == "cancelled"


def test_another_document_is_waited_for(server: Served) -> None:
    with (
        Client(name="editor", environment=server.environment) as first,
        Client(name="editor", environment=server.environment) as second,
    ):
        stream = first.stream(LONG, document="other.py")
        next(stream)
        assert second.complete(SHORT).finish_reason == "length"
        assert list(stream)[-1].finish_reason == "length"


def test_a_bad_request_is_said(client: Client) -> None:
    with pytest.raises(TreelineError, match="no chat template"):
        client.complete(CompletionRequest("", messages=(ChatMessage("user", "hi"),)))
    assert client.complete(SHORT).finish_reason


def test_the_async_client_streams_many_at_once(server: Served, engine: Engine) -> None:
    requests = [CompletionRequest(f"value_{number} = ", max_tokens=6) for number in range(6)]
    expected = ["".join(chunk.text for chunk in engine.complete(request)) for request in requests]

    async def ask() -> list[str]:
        async with AsyncClient(environment=server.environment) as client:
            answers = await asyncio.gather(*(client.complete(request) for request in requests))
        return [answer.text for answer in answers]

    assert asyncio.run(ask()) == expected


def test_cancelling_the_task_cancels_the_work(server: Served) -> None:
    before = cancelled_so_far(server)

    async def ask() -> None:
        async with AsyncClient(environment=server.environment) as client:
            task = asyncio.create_task(client.complete(LONG))
            while not (await asyncio.to_thread(httpx.get, f"{server.url}/health")).json()["busy"]:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(ask())
    wait_until_idle(server)
    assert cancelled_so_far(server) == before + 1


# --- what goes over the wire


def test_requests_are_json_whatever_they_hold() -> None:
    body = json.loads(encode_request(CompletionRequest("a\ud800b\0", context=(ContextFile("p", "t"),))))
    assert body["request"]["prefix"] == "a?b\0"
    assert body["request"]["context"] == [{"path": "p", "text": "t"}]


@pytest.mark.parametrize(
    "line", [b"", b"<html>", b"[]", b"{}", b'{"text": "x"}', b'{"text": "x", "tokens": [], "stats": {"a": 1}}']
)
def test_what_is_no_chunk_is_an_error(line: bytes) -> None:
    with pytest.raises(TreelineError, match="cannot be read"):
        decode_chunk(line)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "m", "code": "c"}}', ("m", "c")),
        (b'{"error": {"message": "m"}}', ("m", "")),
        (b'{"error": "m"}', ("m", "")),
        (b'{"error": null}', ("status 418", "")),
        (b"teapot", ("status 418", "")),
        (b"[]", ("status 418", "")),
    ],
)
def test_errors_of_any_server_are_read(body: bytes, expected: tuple[str, str]) -> None:
    assert error_of(body, 418) == expected


# --- the runtime folder


def test_the_runtime_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    for environment in ({"TREELINE_RUNTIME_DIR": str(tmp_path / "a" / "b")}, {"XDG_RUNTIME_DIR": str(tmp_path / "x")}):
        directory = runtime_directory(environment)
        assert directory.stat().st_mode & 0o777 == 0o700
    assert directory == tmp_path / "x" / "treeline"


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(TreelineError, match=f"{tmp_path} must be yours, writable, and closed to others"):
        runtime_directory({"TREELINE_RUNTIME_DIR": str(tmp_path)})


def test_a_runtime_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TreelineError, match="cannot be used: Not a directory; set TREELINE_RUNTIME_DIR"):
        runtime_directory({"TREELINE_RUNTIME_DIR": str(tmp_path / "file" / "folder")})
