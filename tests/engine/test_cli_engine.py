"""The command line over the real engine and a small pair: processes, signals, terminals, pipes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pairs import CONTEXT, PairPaths

from engine.cli import main

COMMAND = [sys.executable, "-m", "engine"]
DEVICE_FULL = Path("/dev/full")


@pytest.fixture
def arguments(pair_paths: PairPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`complete FILE` with the int4 target and its drafter."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    source = tmp_path / "source.py"
    source.write_text("def add(a, b):\n    return a\n", encoding="utf-8")
    return ["complete", str(source), "--model", str(pair_paths.awq), "--drafter", str(pair_paths.drafter)]


def answer(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> dict[str, object]:
    assert main([*arguments, "--json"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    return json.loads(printed.out)


@pytest.mark.parametrize("sampling", [[], ["--temperature", "0.9", "--seed", "4"]])
def test_speculation_changes_nothing_in_float32(
    arguments: list[str], capfd: pytest.CaptureFixture[str], sampling: list[str]
) -> None:
    exact = [*arguments, "--dtype", "float32", "--max-tokens", "40", *sampling]
    plain = answer(capfd, [*exact, "--no-speculation"])
    assert plain["tokens"]
    for budget in ("auto", "1", "7", "64"):
        drafted = answer(capfd, [*exact, "--budget", budget])
        assert (drafted["text"], drafted["tokens"]) == (plain["text"], plain["tokens"])
    assert main(exact) == 0
    assert capfd.readouterr().out == plain["text"]


def test_a_file_longer_than_the_context_completes(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / "long.py"
    long.write_text("".join(f"value_{number} = {number} + {number}\n" for number in range(60_000)), encoding="utf-8")
    for place in ([], ["--line", "30000", "--column", "7"], ["--line", "1"]):
        found = answer(capfd, [arguments[0], str(long), *arguments[2:], *place, "--max-tokens", "4"])
        stats = found["stats"]
        assert isinstance(stats, dict)
        assert CONTEXT // 2 < stats["prompt_tokens"] <= CONTEXT


def test_an_empty_file_and_an_empty_line_complete(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.py").touch()
    assert answer(capfd, [arguments[0], str(tmp_path / "empty.py"), *arguments[2:]])["tokens"]


def test_a_deadline_is_a_normal_end(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    found = answer(capfd, [*arguments, "--deadline-ms", "0.001", "--max-tokens", "400"])
    assert found["finish_reason"] == "deadline"


def test_sizes_that_do_not_fit_are_said(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--memory", "1KiB"]) == 1
    assert "memory allows" in capfd.readouterr().err


def test_the_first_line_alone_can_be_had(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    found = answer(capfd, [*arguments, "--until", "line", "--temperature", "1.5", "--max-tokens", "200", "--line", "2"])
    assert "\n" not in str(found["text"])


def start(arguments: list[str], **streams: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *arguments], start_new_session=True, **streams)  # type: ignore[call-overload]


ENDLESS = ["--max-tokens", "450", "--no-speculation", "--temperature", "2", "--repetition-penalty", "1.5"]


def test_ctrl_c_ends_in_order(arguments: list[str]) -> None:
    """Whenever it comes: while Python starts, while libraries load, or while tokens are decoded."""
    for delay in (0.3, 1.0, 2.0, 3.0):
        process = start([*arguments, *ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:  # it was faster
            continue
        if process.returncode == -signal.SIGINT:  # before Python had set itself up to notice
            continue
        assert b"Traceback" not in err
        assert (process.returncode, err) == (130, b"")


def test_a_reader_that_leaves_ends_it_quietly(arguments: list[str]) -> None:
    process = start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


@pytest.mark.skipif(not DEVICE_FULL.exists(), reason="no /dev/full here")
def test_a_full_disk_is_said(arguments: list[str]) -> None:
    with DEVICE_FULL.open("wb") as full:
        process = start(arguments, stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(b"treeline: the system refused: ")
    assert err.count(b"\n") == 1


def test_on_a_terminal_the_text_comes_with_a_bar_and_statistics(arguments: list[str]) -> None:
    screen, terminal = pty.openpty()
    process = start(arguments, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL)
    os.close(terminal)
    seen = b""
    while select.select([screen], [], [], 60)[0]:
        try:
            block = os.read(screen, 4096)
        except OSError:  # Linux: the other side has closed
            break
        if not block:
            break
        seen += block
    os.close(screen)
    assert process.wait(60) == 0
    shown = seen.decode(errors="replace")
    assert "target" in shown
    assert "%" in shown
    assert shown.rstrip().endswith("cached\x1b[0m")
    assert "\x1b[2m" in shown


def test_bench_decode_reports_no_mismatch_in_float32(
    pair_paths: PairPaths, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases.jsonl"
    row = {"language": "python", "path": "a.py", "suffix": "\n", "expected": "b", "kind": "mid-line"}
    prefixes = ("def add(a, b):\n    return a + ", "import os\n\nfor name in os.", "class A:\n    x = ")
    lines = [json.dumps({**row, "id": str(n), "prefix": prefix}) for n, prefix in enumerate(prefixes)]
    cases.write_text("\n".join(lines), encoding="utf-8")
    models = ["--model", str(pair_paths.target), "--drafter", str(pair_paths.drafter), "--dtype", "float32"]
    decode = ["bench", "decode", "--cases", str(cases), "--max-tokens", "16", "--fixed-length", *models]
    for more in ([], ["--fresh", "--temperature", "0.8"]):
        assert main([*decode, *more, "--json"]) == 0
        printed = capfd.readouterr()
        assert printed.err == ""
        found = json.loads(printed.out)
        assert (found["cases"], found["mismatches"], found["mismatch_details"]) == (3, 0, [])
        assert found["new_tokens"] == 48
        assert found["accepted_per_pass"] > 1
        assert found["settings"]["fresh"] is bool(more)
        assert found["by_kind"]["mid-line"]["cases"] == 3
        for name in ("tokens_per_second", "autoregressive_tokens_per_second", "speedup"):
            assert found[name] > 0
    assert main(decode) == 0
    assert "0 of 3 cases differ" in capfd.readouterr().out
