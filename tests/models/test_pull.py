"""Downloading, through huggingface_hub itself, from a stand-in for the hub on this machine."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import Hub, blob_id, serve, sha256
from huggingface_hub import constants

from engine.cli import main
from engine.offload.store import store_path

ROOT = Path(__file__).parents[2]
NAME = "owner/small"
WEIGHTS = os.urandom(3_000_000)
SMALL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "README.md": b"a card",
    "pytorch_model.bin": b"a pickle",
    "original/consolidated.safetensors": b"another copy",
    "consolidated.safetensors": b"another copy",
    "code.py": b"raise SystemExit('run')",
}
LISTED = {"config.json", "tokenizer.json", "model.safetensors", "README.md"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub({NAME: dict(SMALL)})) as served:
        yield served


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@dataclass(frozen=True)
class Done:
    """What a command has left."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def treeline(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command against a hub, in this process: huggingface_hub's settings are those of a fresh home."""

    def run(hub: Hub, *arguments: str, offline: bool = False, token: str = "") -> Done:
        settings = {"ENDPOINT": hub.url, "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": offline}
        settings["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        settings |= {"HF_TOKEN_PATH": str(home / "token"), "DOWNLOAD_CHUNK_SIZE": 65536}
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        status = main(arguments)
        written = capsys.readouterr()
        return Done(status, written.out, written.err)

    return run


def die_in_mid_download(hub: Hub, home: Path, fault: str) -> Done:
    """Pull in a process of its own that meets `fault` after a million bytes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TREELINE_"))}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    run = f"import sys; from engine.cli import main; sys.exit(main(['models', 'pull', '{NAME}']))"
    command = [sys.executable, "-c", DYING.replace("FAULT", fault) + run]
    done = subprocess.run(command, cwd=ROOT, env=kept | settings, capture_output=True, text=True, timeout=120)
    return Done(done.returncode, done.stdout, done.stderr)


def pulled(done: Done) -> Path:
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def complaint(done: Done) -> str:
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("treeline: ")
    return last


def weights_asked(hub: Hub) -> Sequence[str]:
    """The ranges of weights that were fetched; "" for all of it."""
    return [asked for path, asked in hub.gets if path.startswith("/lfs/")]


def test_what_a_model_needs_arrives_and_nothing_else(hub: Hub, home: Path, treeline: Run) -> None:
    done = treeline(hub, "models", "pull", NAME)
    snapshot = pulled(done)
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == {name: SMALL[name] for name in LISTED}
    assert "0.0 GB to download" in done.stderr
    assert treeline(hub, "models", "path", NAME, offline=True).stdout.strip() == str(snapshot)


def test_what_is_there_is_checked_and_not_fetched_again(hub: Hub, home: Path, treeline: Run) -> None:
    snapshot = pulled(treeline(hub, "models", "pull", NAME))
    assert pulled(treeline(hub, "models", "pull", NAME)) == snapshot
    assert weights_asked(hub) == [""]
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))
    pulled(treeline(hub, "models", "pull", NAME))
    assert weights_asked(hub) == ["", ""]
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: Hub, home: Path, treeline: Run) -> None:
    hub.break_after = 2_000_000
    snapshot = pulled(treeline(hub, "models", "pull", NAME))
    first, second = weights_asked(hub)
    assert first == ""
    assert 1_900_000 < int(second.removeprefix("bytes=").removesuffix("-")) <= 2_000_000
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS


DYING = """
import engine.pull as pull, os
real = pull._Counted.write
def write(self, data):
    count = real(self, data)
    self._file.flush()
    if self._file.tell() >= 1_000_000: FAULT
    return count
pull._Counted.write = write
pull._BLOCK = 65536
import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 65536
"""


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("os.kill(os.getpid(), 9)", -9, ""),
        ("raise KeyboardInterrupt", 130, "the same command goes on from there"),
        ("raise OSError(28, 'No space left on device')", 1, "the disk is full"),
    ],
)
def test_an_interrupted_pull_goes_on_where_it_was(
    hub: Hub, home: Path, fault: str, status: int, said: str, treeline: Run
) -> None:
    done = die_in_mid_download(hub, home, fault)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert treeline(hub, "models", "path", NAME).returncode == 1
    snapshot = pulled(treeline(hub, "models", "pull", NAME))
    first, second = weights_asked(hub)
    assert first == ""
    assert int(second.removeprefix("bytes=").removesuffix("-")) >= 1_000_000
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_a_server_without_ranges_sends_it_all_again(hub: Hub, home: Path, treeline: Run) -> None:
    die_in_mid_download(hub, home, "os.kill(os.getpid(), 9)")
    hub.ranges = False
    snapshot = pulled(treeline(hub, "models", "pull", NAME))
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damage_is_found_and_not_kept(hub: Hub, home: Path, name: str, treeline: Run) -> None:
    hub.damage = name
    assert f"{name} arrived damaged" in complaint(treeline(hub, "models", "pull", NAME))
    hub.damage = ""
    snapshot = pulled(treeline(hub, "models", "pull", NAME))
    assert (snapshot / name).read_bytes() == SMALL[name]


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(
    hub: Hub, home: Path, treeline: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    said = complaint(treeline(hub, "models", "pull", NAME))
    assert "has 0.0 GB free: make room, or set HF_HOME" in said
    assert weights_asked(hub) == []


@pytest.mark.parametrize(
    ("fault", "environment", "said"),
    [
        ({"token": "t"}, {}, f"{NAME} is not on the hub, or private"),
        ({"token": "t", "gated": True}, {}, f"{NAME} is gated: accept its terms at"),
        ({"repositories": {}}, {}, f"{NAME} is not on the hub, or private"),
        ({"status": 403}, {"token": "t"}, "the hub refuses your token (403)"),
        ({"status": 500}, {}, "the hub failed with status 500"),
        ({"status": 429}, {}, "too many requests from here (429)"),
        ({"url": "http://127.0.0.1:9"}, {}, "http://127.0.0.1:9 cannot be reached"),
        ({}, {"offline": True}, "HF_HUB_OFFLINE forbids downloads"),
        ({"repositories": {NAME: {"pytorch_model.bin": b"x"}}}, {}, "has no safetensors, only pytorch_model.bin"),
        ({"repositories": {NAME: {"config.json": b"x"}}}, {}, "has no safetensors, only no weights at all"),
    ],
)
def test_failures_are_one_line_that_says_what_to_do(
    hub: Hub, home: Path, fault: dict[str, Any], environment: dict[str, Any], said: str, treeline: Run
) -> None:
    for key, value in fault.items():
        setattr(hub, key, value)
    assert said in complaint(treeline(hub, "models", "pull", NAME, **environment))


def test_a_token_opens_a_gated_repository(hub: Hub, home: Path, treeline: Run) -> None:
    hub.token, hub.gated = "secret", True
    assert pulled(treeline(hub, "models", "pull", NAME, token="secret")).is_dir()
    assert not hub.leaked


def test_two_pulls_of_one_model_do_not_mix(hub: Hub, home: Path, treeline: Run) -> None:
    blobs = home / "hub" / "models--owner--small" / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / f"{sha256(WEIGHTS)}.treeline-partial").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = complaint(treeline(hub, "models", "pull", NAME))
    assert "another process is downloading owner/small" in said


def test_a_preset_brings_target_and_drafter_and_is_removed_with_them(home: Path, treeline: Run) -> None:
    target, drafter = "Qwen/Qwen2.5-Coder-7B-Instruct-AWQ", "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    with serve(Hub({target: dict(SMALL), drafter: dict(SMALL) | {"model.safetensors": b"d" * 1000}})) as hub:
        done = treeline(hub, "models", "pull", "cpu")
        first, second = done.stdout.splitlines()
        assert treeline(hub, "models", "path", "cpu").stdout.strip() == first
        assert treeline(hub, "models", "path", "cpu", "--drafter").stdout.strip() == second
        listed = treeline(hub, "models", "list").stdout
        assert f"{target} ~5.6 GB 0.0 GB Apache-2.0" in " ".join(listed.split())
        assert [line.split()[-1] for line in listed.splitlines() if line.startswith(("cpu", "gpu-12gb"))] == [
            "no",
            "yes",
        ]
        assert "Nobody is there to answer" in complaint(treeline(hub, "models", "remove", "cpu"))
        assert treeline(hub, "models", "remove", "cpu", "--yes").returncode == 0
        assert "nothing of cpu is on this machine" in complaint(treeline(hub, "models", "remove", "cpu", "--yes"))
        assert not list((home / "hub").glob("models--*"))


def test_a_drafter_stays_while_another_target_needs_it(home: Path, treeline: Run) -> None:
    small, large = (f"Qwen/Qwen2.5-Coder-{size}B-Instruct-AWQ" for size in (7, 14))
    drafter = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    with serve(Hub({name: dict(SMALL) for name in (small, large, drafter)})) as hub:
        treeline(hub, "models", "pull", "qwen2.5-coder-7b")
        treeline(hub, "models", "pull", large)
        treeline(hub, "models", "remove", "qwen2.5-coder-7b", "--yes")
        left = {path.name for path in (home / "hub").glob("models--*")}
        assert left == {f"models--{name.replace('/', '--')}" for name in (large, drafter)}


def test_what_was_made_to_stream_from_is_removed_as_well(
    hub: Hub, home: Path, treeline: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREELINE_CACHE", str(tmp_path / "cache"))
    snapshot = pulled(treeline(hub, "models", "pull", NAME))
    stores = [store_path(snapshot), store_path(snapshot, "cuda").with_suffix(".partial"), store_path(tmp_path)]
    stores[0].parent.mkdir(parents=True)
    for path in (*stores, stores[0].with_suffix(".lock")):
        path.touch()
    with stores[0].open("wb") as file:
        file.truncate(1_500_000_000)
    said = complaint(treeline(hub, "models", "remove", NAME))
    assert f"Delete {NAME}, 0.0 GB, and its copy to stream from, 1.5 GB in {stores[0].parent}? Nobody" in said
    assert treeline(hub, "models", "remove", NAME, "--yes").returncode == 0
    assert list(stores[0].parent.iterdir()) == [stores[2]]
    assert not list((home / "hub").glob("models--*"))


def test_the_bundled_pair_is_not_removed(hub: Hub, home: Path, treeline: Run) -> None:
    assert "the bundled pair is part of Treeline" in complaint(treeline(hub, "models", "remove", "bundled", "--yes"))


def test_names_that_are_none_are_refused(hub: Hub, home: Path, treeline: Run) -> None:
    assert 'did you mean "gpu-24gb"?' in complaint(treeline(hub, "models", "pull", "gpu24gb"))
    assert "is no preset" in complaint(treeline(hub, "models", "path", NAME, "--drafter"))
    done = treeline(hub, "models", "pull", "bundled")
    assert (done.returncode, hub.gets) == (0, [])


def test_the_fake_hubs_hashes_are_gits() -> None:
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
