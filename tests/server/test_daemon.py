"""The process in the background: started on demand, one of a kind, ended in order, no trouble when it was killed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from engine import __version__
from engine.client import AsyncClient, Client
from engine.config import EngineConfig
from engine.errors import TreelineError
from engine.launch import Status, ask_health, elsewhere, ensure, listening, running, stop
from engine.request import CompletionRequest, SamplingParams, StopRules
from engine.runtime import DaemonFiles, daemon_files, identity, read_address
from engine.server import daemon as daemon_module
from tests.server.serving import TOKEN, private, private_daemons, serve

SHORT = CompletionRequest("def area(width, height):\n    return ", max_tokens=8)
LONG = CompletionRequest("x = [", max_tokens=1500, sampling=SamplingParams(temperature=1.4, seed=1),
                         stop=StopRules(ignore_end_tokens=True), speculation=False)  # fmt: skip
CONFIG = EngineConfig()


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    with private_daemons(tmp_path / "run") as made:
        yield made


def only_one(environment: dict[str, str]) -> Status:
    (daemon,) = running(environment)
    return daemon


def gone(pid: int, seconds: float = 30) -> bool:
    """Wait for a process to end; a zombie that nobody reaps has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


def test_ten_clients_that_race_share_one_daemon(environment: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text(SHORT.prefix)
    command = [sys.executable, "-m", "engine", "complete", str(source), "--max-tokens", "8"]
    clients = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(10)]
    texts = [client.communicate(timeout=300)[0] for client in clients]
    assert [client.returncode for client in clients] == [0] * 10
    assert len(set(texts)) == 1
    assert texts[0]
    daemon = only_one(environment)
    assert daemon.files.log.read_text().count(", serves ") == 1


def test_killed_in_mid_stream_the_next_request_is_answered(environment: dict[str, str]) -> None:
    with Client(environment=environment) as client:
        stream = client.stream(LONG)
        next(stream)
        first = only_one(environment)
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(TreelineError, match="in the middle of an answer: ask again"):
            list(stream)
        assert first.files.socket.exists()  # it had no time to tidy up
        assert client.complete(SHORT).finish_reason == "length"
        assert only_one(environment).pid != first.pid


def test_told_to_stop_it_ends_what_it_was_answering(environment: dict[str, str]) -> None:
    with Client(environment=environment) as client:
        stream = client.stream(LONG)
        first = next(stream)
        daemon = only_one(environment)
        os.kill(daemon.pid, signal.SIGTERM)
        *_, last = stream
        assert (last.finish_reason, first.finish_reason) == ("cancelled", None)
        assert last.stats
        assert gone(daemon.pid)
    assert not daemon.files.socket.exists()
    assert not daemon.files.address.exists()


def test_leftovers_stand_in_nobodys_way(environment: dict[str, str]) -> None:
    files = daemon_files(CONFIG, environment)
    files.lock.write_text("999999")
    files.address.write_text("{not json")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(files.socket))
    assert listening(files) is None
    assert list(running(environment)) == []
    with Client(environment=environment) as client:
        assert client.complete(SHORT).finish_reason == "length"


def test_its_files_are_its_owners_alone(environment: dict[str, str]) -> None:
    ensure(CONFIG, environment)
    files = daemon_files(CONFIG, environment)
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o700
    for path in (files.socket, files.address):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = read_address(files)
    assert (content["version"], content["model"]) == (__version__, "bundled")


def test_idle_it_ends(environment: dict[str, str]) -> None:
    config = EngineConfig(idle_minutes=0.01)  # type: ignore[arg-type]
    with Client(config, environment=environment) as client:
        assert client.complete(SHORT).finish_reason == "length"
        pid = next(iter(running(environment))).pid
        assert gone(pid)
        assert client.complete(SHORT).finish_reason == "length"  # its connection was to the one that is gone


def test_a_path_too_long_for_a_socket_gets_a_port_and_a_token(tmp_path: Path) -> None:
    with private_daemons(tmp_path / ("long" * 25)) as environment, Client(environment=environment) as client:
        assert client.complete(SHORT).finish_reason == "length"
        files = daemon_files(CONFIG, environment)
        content = read_address(files)
        assert not files.socket.exists()
        url = f"http://127.0.0.1:{content['port']}"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        good = {"Authorization": f"Bearer {content['token']}"}
        assert httpx.get(f"{url}/v1/models", headers=good).status_code == 200


# --- another version


# An engine that gives a first text and then goes on until it is told to stop.
ENDLESS = """
import time
from engine.engine import Engine

complete = Engine.complete

def endless(self, request, cancelled):
    yield next(complete(self, request, cancelled))
    while not cancelled():
        time.sleep(0.01)

Engine.complete = endless
"""


def other_version(environment: dict[str, str], before: str = "") -> subprocess.Popen[bytes]:
    """A daemon that says it is Treeline 0.0.1, and runs `before` before it serves."""
    code = (
        "import engine; engine.__version__ = '0.0.1'\n"
        f"{before}\n"
        "from engine.config import EngineConfig\n"
        "from engine.server.daemon import ServeOptions, serve\n"
        "serve(ServeOptions(EngineConfig()), lambda where: print(where, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    return process


def complete(environment: dict[str, str]) -> str | None:
    with Client(environment=environment) as client:
        return client.complete(SHORT).finish_reason


def complete_asynchronously(environment: dict[str, str]) -> str | None:
    async def ask() -> str | None:
        async with AsyncClient(environment=environment) as client:
            return (await client.complete(SHORT)).finish_reason

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [complete, complete_asynchronously])
def test_a_daemon_of_another_version_is_replaced_when_it_is_idle(
    environment: dict[str, str], ask: Callable[[dict[str, str]], str | None]
) -> None:
    old = other_version(environment)
    health = ask_health(ensure(CONFIG, environment))
    assert health
    assert health["version"] == "0.0.1"
    assert ask(environment) == "length"
    assert old.wait(30) == 0
    daemon = only_one(environment)
    assert daemon.health
    assert daemon.health["version"] == __version__


def test_a_busy_daemon_of_another_version_is_left_alone(environment: dict[str, str]) -> None:
    old = other_version(environment, ENDLESS)
    files = daemon_files(CONFIG, environment)
    transport = httpx.HTTPTransport(uds=str(files.socket))
    with httpx.Client(transport=transport, base_url="http://x", timeout=60) as theirs:
        while theirs.get("/health").json()["status"] == "loading":
            time.sleep(0.05)
        with theirs.stream("POST", "/v1/completions", json={"prompt": "numbers = [", "stream": True}) as response:
            lines = response.iter_lines()  # kept: the connection is closed with it
            next(lines)
            with Client(environment=environment) as client, pytest.raises(TreelineError, match=r"0\.0\.1.* busy"):
                client.complete(SHORT)
    assert old.poll() is None
    stop(only_one(environment).pid, files)


# --- loading


def test_what_cannot_be_loaded_is_said_and_leaves_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = EngineConfig(model=str(tmp_path / "empty"))
    with Client(config, environment=environment) as client, pytest.raises(TreelineError, match=r"config\.json"):
        client.complete(SHORT)
    for daemon in running(environment):
        assert gone(daemon.pid)


def test_while_it_loads_it_says_so(tmp_path: Path) -> None:
    with serve(tmp_path / "run", ready=False) as served:
        body = {"prompt": "x", "max_tokens": 1}
        refused = httpx.post(f"{served.url}/v1/completions", json=body, headers=served.headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "loading")
        assert int(refused.headers["Retry-After"]) > 0
        assert httpx.get(f"{served.url}/health").status_code == 503
        headers = served.headers | {"Accept": "text/event-stream"}
        with httpx.stream("GET", f"{served.url}/progress", headers=headers, timeout=60) as response:
            events = [json.loads(line[6:]) for line in response.iter_lines() if line]
        assert [event["state"] for event in events] == ["loading"] * (len(events) - 1) + ["ready"]
        assert any(event["bytes_total"] > 0 for event in events)
        assert httpx.post(f"{served.url}/v1/completions", json=body, headers=served.headers).status_code == 200


def test_told_to_end_while_it_loads_it_ends_in_order(environment: dict[str, str]) -> None:
    """Loading is made endless, with a thread of a library's own as PyTorch has them."""
    code = (
        "import threading, time\n"
        "from engine.config import EngineConfig\n"
        "from engine.server import daemon, service\n"
        "service.GRACE_SECONDS = 0.1\n"
        "service._load = lambda *_: time.sleep(1000)\n"
        "threading.Thread(target=time.sleep, args=(1000,), daemon=False).start()\n"
        "daemon.serve(daemon.ServeOptions(EngineConfig()), lambda where: print(where, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        while not (ask_health(ensure(CONFIG, environment)) or {}).get("status"):
            time.sleep(0.01)
        process.terminate()
        assert process.wait(60) == 0
        assert list(running(environment)) == []
    finally:
        process.kill()
        process.wait()


def test_it_can_be_stopped_while_it_loads(environment: dict[str, str]) -> None:
    address = ensure(CONFIG, environment)
    daemon = only_one(environment)
    health = ask_health(address)
    assert health
    stop(daemon.pid, daemon.files)
    assert list(running(environment)) == []


# --- whose daemon


def test_settings_that_change_the_engine_have_a_daemon_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert identity(EngineConfig(threads=1)) != identity(CONFIG)
    assert identity(EngineConfig(idle_minutes=1, url="http://x", daemon=False)) == identity(CONFIG)
    assert identity(CONFIG, {"TREELINE_KERNELS": "torch", "PATH": "/bin"}) != identity(CONFIG, {"PATH": "/usr/bin"})
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert identity(EngineConfig("model")) == identity(EngineConfig(str(tmp_path / "model")))


def test_folders_in_the_environment_mean_the_same_to_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = DaemonFiles(tmp_path / "run", "engine")
    given = elsewhere({"HF_HOME": "hf", "TREELINE_CACHE": "/cache", "XDG_CACHE_HOME": "", "PATH": "bin"}, files)
    assert given == {
        "HF_HOME": str(tmp_path / "hf"),
        "TREELINE_CACHE": "/cache",
        "XDG_CACHE_HOME": "",
        "PATH": "bin",
        "TREELINE_RUNTIME_DIR": str(tmp_path / "run"),
    }


# --- the command line


def treeline(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_status_and_stop(environment: dict[str, str], tmp_path: Path) -> None:
    assert treeline(environment, "serve", "status").returncode == 1
    nothing = treeline(environment, "serve", "stop")
    assert (nothing.returncode, nothing.stderr) == (0, "no engine runs: there is nothing to end\n")
    source = tmp_path / "a.py"
    source.write_text(SHORT.prefix)
    answer = treeline(environment, "complete", str(source), "--json", "--max-tokens", "8")
    assert json.loads(answer.stdout)["stats"]["new_tokens"] == 8
    assert answer.stderr == ""
    found = treeline(environment, "serve", "status")
    assert found.returncode == 0
    assert found.stdout.startswith("bundled: ok, process ")
    (listed,) = json.loads(treeline(environment, "serve", "status", "--json").stdout)["engines"]
    assert listed["status"] == "ok"
    again = treeline(environment, "serve")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "runs already" in again.stderr
    assert f"ended process {listed['pid']}" in treeline(environment, "serve", "stop").stderr
    assert treeline(environment, "serve", "status").stderr == "no engine runs\n"


def test_ctrl_c_ends_a_completion_of_the_daemon(environment: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("x = [")
    assert treeline(environment, "complete", str(source), "--max-tokens", "1").returncode == 0
    endless = ["--max-tokens", "2000", "--no-speculation", "--temperature", "2", "--seed", "1", "--json"]
    command = [sys.executable, "-m", "engine", "complete", str(source), *endless]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    address = ensure(CONFIG, environment)
    while not (ask_health(address) or {}).get("busy"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert json.loads(out)["finish_reason"] == "cancelled"
    while (ask_health(address) or {}).get("busy"):
        time.sleep(0.005)


BAD = [
    (["--host", "0.0.0.0", "--port", "0"], "--allow-remote"),
    (["--host", "no.such.host.invalid", "--port", "0"], "give an address of this machine"),
    (["--host", "192.0.2.1", "--port", "0", "--allow-remote"], "cannot listen on 192.0.2.1"),
    (["--port", "0", "--token-file", "no-such-file"], "cannot read the token"),
]


@pytest.mark.parametrize(("arguments", "complaint"), BAD)
def test_what_cannot_be_served_is_one_line(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    done = treeline(private(tmp_path / "run") | {"TREELINE_TOKEN": TOKEN}, "serve", *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr.splitlines()[-1]


def test_a_port_needs_a_token_and_must_be_free(tmp_path: Path) -> None:
    environment = private(tmp_path / "run")
    assert "a port needs a token" in treeline(environment, "serve", "--port", "0").stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = treeline(environment | {"TREELINE_TOKEN": TOKEN}, "serve", "--port", port)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
        assert "choose another" in done.stderr
    assert treeline(environment, "serve", "--host", "127.0.0.1").returncode == 2


def test_who_listens_to_other_machines_is_warned_and_asks_them_for_the_token(tmp_path: Path) -> None:
    environment = private(tmp_path / "run") | {"TREELINE_TOKEN": TOKEN}
    command = [sys.executable, "-m", "engine", "serve", "--host", "0.0.0.0", "--port", "0", "--allow-remote"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "other machines can reach 0.0.0.0" in process.stderr.readline()
        port = process.stderr.readline().partition("http://0.0.0.0:")[2].partition(".")[0]
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=headers).status_code == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stderr.close() if process.stderr else None


def test_a_log_that_is_long_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_module, "LOG_BYTES", 1000)
    files = daemon_files(CONFIG, private(tmp_path / "run"))
    with daemon_module._log_to(files):
        for number in range(100):
            logging.getLogger("engine.server").info("line %d", number)
    kept = sorted(files.directory.glob("*.log*"))
    assert len(kept) == 2
    assert all(path.stat().st_size <= 1000 for path in kept)
    assert "line 99" in files.log.read_text()


def test_a_relative_runtime_folder_is_the_clients(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ensure(CONFIG, environment | {"TREELINE_RUNTIME_DIR": "run"})
    assert only_one(environment).files.directory == tmp_path / "run"
