"""The clients, against a real server on its Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest

from engine.client import AsyncClient, Client
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.launch import Address, ask_health, ensure, listening, running
from engine.request import ChatMessage, CompletionChunk, CompletionRequest, ContextFile, SamplingParams, StopRules
from engine.runtime import daemon_files, runtime_directory
from engine.server.native import to_json
from engine.wire import decode_chunk, encode_request, error_of
from tests.server.serving import Served, private, private_daemons

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


def test_cancel_before_the_first_piece_is_asked_for_counts(client: Client) -> None:
    stream = client.stream(SHORT)
    client.cancel()
    assert [chunk.finish_reason for chunk in stream] == ["cancelled"]
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


# --- the asynchronous client


async def until_busy(server: Served) -> None:
    while not (await asyncio.to_thread(httpx.get, f"{server.url}/health")).json()["busy"]:
        await asyncio.sleep(0.005)


def test_one_connection_serves_asynchronous_requests_one_after_another(server: Served) -> None:
    async def ask() -> set[object]:
        async with AsyncClient(environment=server.environment) as client:
            seen: set[object] = set()
            for _ in range(4):
                await client.complete(SHORT)
                assert client._session is not None
                pool = client._session.http._transport._pool  # type: ignore[attr-defined]
                seen.update(pool.connections)
            return seen

    assert len(asyncio.run(ask())) == 1


def test_closing_the_asynchronous_stream_cancels_the_work(server: Served) -> None:
    before = cancelled_so_far(server)

    async def ask() -> None:
        async with AsyncClient(environment=server.environment) as client:
            async with aclosing(client.stream(LONG)) as chunks:
                async for _ in chunks:
                    break
            await asyncio.to_thread(wait_until_idle, server)  # while the client stays open
            assert (await client.complete(SHORT)).finish_reason == "length"

    asyncio.run(ask())
    assert cancelled_so_far(server) == before + 1


def test_cancelling_one_task_leaves_the_others_alone(server: Served) -> None:
    async def ask() -> str | None:
        async with AsyncClient(environment=server.environment) as client:
            given_up = asyncio.create_task(client.complete(LONG))
            kept = asyncio.create_task(client.complete(SHORT, document="kept.py"))
            await until_busy(server)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            return (await kept).finish_reason

    assert asyncio.run(ask()) == "length"


def test_line_separators_within_the_text_do_not_part_a_line(tmp_path: Path) -> None:
    """A stand-in for a daemon, since no model can be made to say them."""
    text = "a\u2028b\x85c\u2029d"
    environment = private(tmp_path / "run")
    chunks = (CompletionChunk(text, (1,)), CompletionChunk("", (), "stop"))
    lines = b"".join(json.dumps(to_json(chunk), ensure_ascii=False).encode() + b"\n" for chunk in chunks)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(lines) + lines)
            await writer.drain()
        writer.close()

    async def ask() -> str:
        path = daemon_files(EngineConfig(), environment).socket
        async with await asyncio.start_unix_server(answer, path), AsyncClient(environment=environment) as client:
            return (await client.complete(SHORT)).text

    assert asyncio.run(ask()) == text


def test_a_start_that_nobody_waits_for_any_more_leaves_no_thread(tmp_path: Path) -> None:
    with private_daemons(tmp_path / "run") as environment:
        before = threading.active_count()

        async def ask() -> None:
            async with AsyncClient(environment=environment) as client:
                task = asyncio.create_task(client.complete(SHORT))
                while not daemon_files(EngineConfig(), environment).lock.exists():
                    await asyncio.sleep(0.005)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert threading.active_count() <= before
                assert (await client.complete(SHORT)).finish_reason == "length"  # what was started serves

        asyncio.run(ask())


def test_killed_in_mid_stream_the_next_asynchronous_request_is_answered(tmp_path: Path) -> None:
    with private_daemons(tmp_path / "run") as environment:

        async def ask() -> None:
            async with AsyncClient(environment=environment) as client:
                async with aclosing(client.stream(LONG)) as chunks:
                    await anext(chunks)
                    (daemon,) = running(environment)
                    os.kill(daemon.pid, signal.SIGKILL)
                    with pytest.raises(TreelineError, match="in the middle of an answer: ask again"):
                        async for _ in chunks:
                            pass
                assert (await client.complete(SHORT)).finish_reason == "length"
                assert next(running(environment)).pid != daemon.pid

        asyncio.run(ask())


# --- starting and finding it


def test_a_start_can_be_given_up(tmp_path: Path) -> None:
    """`cancel` while there is nothing to talk to yet."""
    with private_daemons(tmp_path / "run") as environment, Client(environment=environment) as client:
        lock = daemon_files(EngineConfig(), environment).lock

        def cancel() -> None:
            while not lock.exists():
                time.sleep(0.005)
            client.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        (only,) = client.stream(LONG)
        thread.join()
        assert only.finish_reason == "cancelled"
        assert client.complete(SHORT).finish_reason == "length"


def test_the_daemons_command_line_holds_no_key(tmp_path: Path) -> None:
    with private_daemons(tmp_path / "run") as environment:
        ensure(EngineConfig(api_key="very-secret"), environment)
        (daemon,) = running(environment)
        command = Path(f"/proc/{daemon.pid}/cmdline").read_bytes()
        assert b"engine.server.daemon" in command
        assert b"very-secret" not in command


def test_a_port_that_is_another_programs_by_now_is_told_nothing(tmp_path: Path) -> None:
    """Where sockets have no room for their path: the address of a killed daemon, and somebody who took its port."""
    environment = private(tmp_path / ("long" * 25))
    files = daemon_files(EngineConfig(), environment)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        content = {"pid": os.getpid(), "port": taken.getsockname()[1], "token": "t"}
        files.address.write_text(json.dumps(content))
        assert listening(files) is None
        assert list(running(environment)) == []


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"])
def test_whoever_answers_strangely_is_no_daemon(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def say() -> None:
            connected, _ = server.accept()
            with connected:
                connected.recv(65536)
                connected.sendall(answer)

        thread = threading.Thread(target=say)
        thread.start()
        assert ask_health(Address(path=str(path))) is None
        thread.join()
