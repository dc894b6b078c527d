"""Another server in place of an engine: one that behaves, and ones that do not."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from engine.config import EngineConfig, read_config
from engine.engine import Engine
from engine.errors import TreelineError
from engine.remote import RemoteClient, _body
from engine.request import ChatMessage, CompletionRequest, SamplingParams, StopRules
from tests.server.serving import TOKEN, Served, private

REQUEST = CompletionRequest("def area(width, height):\n    ", "\n\nprint(area(2, 3))\n", max_tokens=24)


def remote(server: Served) -> RemoteClient:
    return RemoteClient(EngineConfig(url=f"{server.url}/v1", api_key=TOKEN))


def text_of(client: RemoteClient, request: CompletionRequest = REQUEST) -> str:
    return "".join(chunk.text for chunk in client.stream(request))


def test_the_text_is_the_servers(server: Served, engine: Engine) -> None:
    chunks = list(remote(server).stream(REQUEST))
    assert "".join(chunk.text for chunk in chunks) == "".join(chunk.text for chunk in engine.complete(REQUEST))
    assert len(chunks) > 2
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]


@pytest.mark.parametrize("stop", [StopRules(end_of_line=True), StopRules(min_indent=4), StopRules(strings=("height",))])
def test_the_rules_where_a_text_ends_hold_elsewhere_too(server: Served, engine: Engine, stop: StopRules) -> None:
    request = CompletionRequest("def area(width, height):\n    return ", max_tokens=48, stop=stop)
    expected = list(engine.complete(request))
    found = list(remote(server).stream(request))
    assert "".join(chunk.text for chunk in found) == "".join(chunk.text for chunk in expected)
    assert found[-1].finish_reason == expected[-1].finish_reason


SAMPLINGS = [SamplingParams(1.9, top_k=1, seed=1), SamplingParams(repetition_penalty=1.9)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_all_of_the_sampling_is_sent(server: Served, engine: Engine, sampling: SamplingParams) -> None:
    request = CompletionRequest("x = [1, 1, 1, ", max_tokens=32, sampling=sampling)
    assert text_of(remote(server), request) == "".join(chunk.text for chunk in engine.complete(request))


def test_servers_that_hold_to_openais_api_are_not_told_of_defaults() -> None:
    assert not {"top_k", "repetition_penalty"} & set(_body(REQUEST)[1])


def test_conversations_and_errors_pass_through(server: Served, chat_server: Served) -> None:
    turn = CompletionRequest("", messages=(ChatMessage("user", "def f():"),), max_tokens=6)
    assert text_of(remote(chat_server), turn)
    with pytest.raises(TreelineError, match="failed: .*no chat template"):
        text_of(remote(server), turn)


def test_cancel_ends_the_stream(server: Served) -> None:
    client = remote(server)
    sampling = SamplingParams(temperature=1.4, seed=1)
    stream = client.stream(CompletionRequest("x = [", max_tokens=1500, sampling=sampling))
    next(stream)
    client.cancel()
    assert list(stream)[-1].finish_reason == "cancelled"
    assert text_of(client)


def test_the_command_line_asks_the_url(server: Served, engine: Engine, tmp_path: Path) -> None:
    config = tmp_path / "treeline.toml"
    config.write_text(f'url = "{server.url}/v1/"\n')
    source = tmp_path / "a.py"
    source.write_text(REQUEST.prefix)
    command = [sys.executable, "-m", "engine", "complete", str(source), "--config", str(config), "--json"]
    environment = private(tmp_path / "run") | {"TREELINE_API_KEY": TOKEN}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["text"]
    assert not list((tmp_path / "run").iterdir())  # no daemon
    refused = subprocess.run(command, env=private(tmp_path / "run"), capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "refuses the key" in refused.stderr


# --- servers that do not behave


@contextmanager
def answering(status: int, body: bytes, kind: str = "application/json") -> Iterator[str]:
    """A server that says the same to everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}/v1"
        made.shutdown()
        thread.join()


def sse(*values: object) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


BAD = [
    (401, b'{"error": {"message": "who are you"}}', r"refuses the key \(who are you\): set api_key"),
    (403, b"", "refuses the key"),
    (404, b"<html>", "does not know this request"),
    (429, b'{"error": {"message": "slow down"}}', r"too much to do \(slow down\): ask again later"),
    (500, b"oops", "failed: status 500"),
    (503, b'{"error": {"message": "loading"}}', "failed: loading"),
    (200, b"<html>hello</html>", "does not answer as an OpenAI-compatible API"),
    (200, b"", "does not answer as an OpenAI-compatible API"),
    (200, sse({"choices": [{}]}), "does not answer as an OpenAI-compatible API"),
    (200, sse({"choices": [{"text": ["a"]}]}), "does not answer as an OpenAI-compatible API"),
    (200, sse([]), "does not answer as an OpenAI-compatible API"),
    (200, b"data: {\n\n", "does not answer as an OpenAI-compatible API"),
    (200, sse({"choices": [{"text": "a"}]}, {"error": {"message": "it broke"}}), "failed: it broke"),
]


@pytest.mark.parametrize(("status", "body", "complaint"), BAD)
@pytest.mark.parametrize("model", ["bundled", "named"])
def test_what_goes_wrong_is_one_clear_line(status: int, body: bytes, complaint: str, model: str) -> None:
    with answering(status, body) as url, pytest.raises(TreelineError) as failure:
        text_of(RemoteClient(EngineConfig(model=model, url=url)))
    assert url in str(failure.value)
    if model == "named":  # the request itself; without a name, asking for the server's models fails first
        assert failure.match(complaint)


@pytest.mark.parametrize("proxy", ["socks://127.0.0.1:1080/", "nonsense://x"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(TreelineError, match="the proxy that the environment names cannot be used"):
        RemoteClient(EngineConfig(model="named", url="http://127.0.0.1:9/v1"))


def test_a_url_without_v1_is_told_of_it() -> None:
    with answering(404, b'{"detail": "Not Found"}') as url, pytest.raises(TreelineError) as failure:
        text_of(RemoteClient(EngineConfig(model="named", url=url.removesuffix("/v1"))))
    assert str(failure.value).endswith(f"its API is perhaps at {url}: set url to that")


def test_usage_and_comments_in_a_stream_are_no_text() -> None:
    body = b": hello\n\n" + sse(
        {"choices": [{"text": "a", "finish_reason": None}], "error": None},
        {"choices": [{"text": "b", "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 3}},
    )
    with answering(200, body + b"data: [DONE]\n\n", "text/event-stream") as url:
        *_, last = chunks = list(RemoteClient(EngineConfig(model="m", url=url)).stream(REQUEST))
    assert "".join(chunk.text for chunk in chunks) == "ab"
    assert last.finish_reason == "length"


def test_line_separators_within_the_text_do_not_part_an_event() -> None:
    text = "a\u2028b\x85c"
    value = json.dumps({"choices": [{"text": text, "finish_reason": "stop"}]}, ensure_ascii=False)
    with answering(200, f"data: {value}\r\n\r\ndata: [DONE]".encode(), "text/event-stream") as url:
        assert text_of(RemoteClient(EngineConfig(model="m", url=url))) == text


@contextmanager
def falling_silent(said: bytes) -> Iterator[str]:
    """A server that says so much to each connection, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        opened: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed below
                while True:
                    opened.append(listening.accept()[0])
                    opened[-1].sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in opened:
            each.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    ("model", "said", "text"),
    [
        ("m", b"", ""),
        ("bundled", b"", ""),
        ("m", HEAD, ""),
        ("m", HEAD + sse({"choices": [{"text": "a b"}]}) + b'data: {"choices', "a b"),
    ],
)
def test_a_deadline_ends_what_a_silent_server_does_not(
    monkeypatch: pytest.MonkeyPatch, model: str, said: bytes, text: str
) -> None:
    monkeypatch.setattr("engine.remote.READ_SECONDS", 20.0)  # for this to fail before long
    request = replace(REQUEST, deadline_ms=400.0)
    with falling_silent(said) as url:
        client = RemoteClient(EngineConfig(model=model, url=url))
        for _ in range(2):
            *_, last = chunks = list(client.stream(request))
            assert "".join(chunk.text for chunk in chunks) == text
            assert last.finish_reason == "deadline"


def test_a_deadline_that_is_not_reached_changes_nothing(server: Served) -> None:
    client = remote(server)
    expected = text_of(client)
    chunks = list(client.stream(replace(REQUEST, deadline_ms=600_000.0)))
    assert "".join(chunk.text for chunk in chunks) == expected
    assert chunks[-1].finish_reason == "length"
    assert text_of(client) == expected


def test_halves_of_characters_are_no_trouble() -> None:
    with answering(200, sse({"choices": [{"text": "a\ud800b"}]}), "text/event-stream") as url:
        assert text_of(RemoteClient(EngineConfig(model="m", url=url)), replace(REQUEST, prefix="x\udc00")) == "a?b"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://no.such.host.invalid/v1"])
def test_a_server_that_is_not_there_is_said(url: str) -> None:
    with pytest.raises(
        TreelineError, match=rf"{url} cannot be reached \(.+\): is that server running, and url right\?"
    ):
        text_of(RemoteClient(EngineConfig(model="m", url=url)))


NO_URL = ["host/v1", "ftp://host", "http://", "http://a b", "http://host:99999/v1", "http://host:port/v1", "http://host:0",
          "http://[::1/v1", "http://[x]/v1", "http://:80/v1", "http://a..b/v1", f"http://{'a' * 64}/v1",
          "http://a\u200bb/v1"]  # fmt: skip


@pytest.mark.parametrize("value", [3, *NO_URL])
def test_a_url_that_is_none_is_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "treeline.toml"
    path.write_text(f"url = {json.dumps(value)}\n")
    with pytest.raises(TreelineError, match="expected an address such as https://host/v1"):
        read_config(path)
