"""Bad input, and clients that misbehave: refused or survived, and the engine still answers."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from engine.request import SamplingParams
from engine.server.app import MAX_BODY
from tests.server.serving import TOKEN, Served

PATHS = ("/complete", "/v1/completions", "/v1/chat/completions", "/infill")


def connect(server: Served) -> socket.socket:
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def head(path: str, length: int) -> bytes:
    """The head of a request with a body."""
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", f"Content-Length: {length}", "", "")
    return "\r\n".join(lines).encode()


@pytest.fixture(autouse=True)
def still_answers(server: Served) -> Iterator[None]:
    """After each test, the engine answers."""
    yield
    body = {"prompt": "x = ", "max_tokens": 2}
    response = httpx.post(f"{server.url}/v1/completions", json=body, headers=server.headers, timeout=30)
    assert response.status_code == 200
    deadline = time.monotonic() + 30
    while httpx.get(f"{server.url}/health").json()["busy"]:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer x", f"Basic {TOKEN}", f"bearer{TOKEN}", f"Bearer {TOKEN}x"]
)
@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/metrics", "/progress", "/openapi.json", "/nowhere"])
def test_without_the_token_nothing_is_told(server: Served, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method in ("GET", "POST"):
        response = httpx.request(method, f"{server.url}{path}", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert response.headers["WWW-Authenticate"] == "Bearer"


def test_a_token_of_strange_bytes_is_refused(server: Served) -> None:
    response = httpx.get(f"{server.url}/metrics", headers=[(b"authorization", b"Bearer \xff\xfe")])
    assert response.status_code == 401


def test_no_other_site_may_read_answers(server: Served) -> None:
    headers = server.headers | {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "GET"):
        response = httpx.request(method, f"{server.url}/v1/models", headers=headers)
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", PATHS)
def test_an_oversized_body_is_refused_unread(server: Served, path: str) -> None:
    with connect(server) as client:
        client.sendall(head(path, MAX_BODY + 1))
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_an_oversized_body_of_unknown_length_is_refused(server: Served) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 2**20 + 1):
            yield b" " * 2**20

    try:
        response = httpx.post(f"{server.url}/complete", content=pieces(), headers=server.headers)
        assert response.status_code == 413
    except httpx.WriteError:
        pass  # the answer came, and the connection was closed, before all was sent


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"{", b"\x00", b"[1]", b'{"prompt": NaN}', b'{"temperature": 1e999, "prompt": "x"}'])
def test_malformed_bodies_are_400(server: Served, path: str, body: bytes) -> None:
    response = httpx.post(f"{server.url}{path}", content=body, headers=server.headers)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({}, "request.prefix"),
        ({"prefix": 1}, "request.prefix"),
        ({"prefix": "x", "max_tokens": 0}, "max_tokens"),
        ({"prefix": "x", "sampling": {"temperature": -1}}, "temperature"),
        ({"prefix": "x", "sampling": {"top_k": "4"}}, "request.sampling.top_k"),
        ({"prefix": "x", "context": [{"path": "a"}]}, "request.context[0].text"),
        ({"prefix": "x", "stop": {"strings": "x"}}, "request.stop.strings"),
        ({"prefix": "x", "logprobs": -1}, "logprobs"),
    ],
)
def test_complete_names_the_field_at_fault(server: Served, request_: dict[str, object], param: str) -> None:
    response = httpx.post(f"{server.url}/complete", json={"request": request_}, headers=server.headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_absurd_values_are_survived(server: Served) -> None:
    sampling = {"seed": 10**30, "temperature": 1000.0, "top_k": 10**12}
    huge = {"prefix": "x = ", "max_tokens": 10**18, "sampling": sampling}
    stops = {"strings": ["\n"], "min_indent": 10**9}
    body = {"request": huge | {"stop": stops, "deadline_ms": 0.001}, "stream": False}
    assert SamplingParams(seed=10**30)
    response = httpx.post(f"{server.url}/complete", json=body, headers=server.headers, timeout=60)
    assert response.status_code == 200


def test_garbage_in_place_of_http_is_survived(server: Served) -> None:
    for noise in (b"\x16\x03\x01\x02\x00" * 50, b"GET\r\n\r\n", b"POST / HTTP/9\r\n\r\n", b"A" * 200_000):
        with connect(server) as client:
            client.sendall(noise)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.1 431")


def test_two_hundred_idle_connections_keep_nobody_out(server: Served) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connect(server))
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
        body = {"prompt": "x = ", "max_tokens": 2}
        assert httpx.post(f"{server.url}/v1/completions", json=body, headers=server.headers).status_code == 200


def test_half_open_requests_keep_nobody_out(server: Served) -> None:
    """Half a header, and a body that does not come: for as long as they stay, and when they leave."""
    with connect(server) as half, connect(server) as waiting:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost:")
        waiting.sendall(head("/v1/completions", 50) + b"{")
        body = {"prompt": "x = ", "max_tokens": 2}
        assert httpx.post(f"{server.url}/v1/completions", json=body, headers=server.headers).status_code == 200


def test_a_reader_that_does_not_read_holds_nobody_up(server: Served) -> None:
    """Its answers stay in buffers; others get theirs meanwhile."""
    body = json.dumps({"prompt": "x = [", "max_tokens": 400, "temperature": 1.5, "stream": True, "n": 8, "seed": 1})
    with connect(server) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        lazy.sendall(head("/v1/completions", len(body)) + body.encode())
        quick = {"prompt": "x = ", "max_tokens": 2}
        assert (
            httpx.post(f"{server.url}/v1/completions", json=quick, headers=server.headers, timeout=60).status_code
            == 200
        )


def test_a_pipelined_second_request_is_answered_after_the_first(server: Served) -> None:
    one = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    with connect(server) as client:
        client.sendall(one * 2)
        seen = b""
        while seen.count(b'"owned_by"') < 2:
            part = client.recv(65536)
            assert part
            seen += part


def test_metrics_and_progress_answer(server: Served) -> None:
    text = httpx.get(f"{server.url}/metrics", headers=server.headers).text
    for line in text.splitlines():
        assert line.startswith("# ") or len(line.rsplit(" ", 1)) == 2
    assert "treeline_ready 1" in text
    progress = httpx.get(f"{server.url}/progress", headers=server.headers).json()
    assert progress["state"] == "ready"


def test_nothing_that_the_user_wrote_is_in_the_log(server: Served) -> None:
    secret = "hunter2_in_the_source"
    for body in ({"prompt": secret, "max_tokens": 2}, {"prompt": [secret, 3]}, {"prompt": "x", "stop": {secret: 1}}):
        httpx.post(f"{server.url}/v1/completions", json=body, headers=server.headers)
    assert "completion length" in server.log()
    assert secret not in server.log()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_generated_request_makes_the_server_fail(server: Served, mode: GenerationMode) -> None:
    """schemathesis over the published OpenAPI document: requests that it allows, and others."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=server.headers)
    statuses: Counter[tuple[str, int]] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]
        if operation.method == "get":
            continue  # they take nothing

        @settings(
            max_examples=8, database=None, suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much)
        )
        @given(case=operation.as_strategy(mode))
        def check(case: schemathesis.Case) -> None:
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
                limits = {"max_tokens": 4, "n_predict": 4}  # there is nothing to learn from long answers
                case.body |= limits
                request = case.body.get("request")
                if isinstance(request, dict):
                    request |= limits
            response = case.call(headers=server.headers, timeout=60)
            statuses[case.path, response.status_code] += 1
            assert response.status_code < 500, response.text

        check()
    assert {path for path, _ in statuses} == set(PATHS)
    wanted = 200 if mode is GenerationMode.POSITIVE else 400
    assert any(status == wanted for _, status in statuses)
