"""The command line over the real engine and a small pair: processes, signals, terminals, pipes."""

from __future__ import annotations

import json
import os
import pty
import select
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
    exact = [*arguments, "--dtype", "float32", "--max-tokens", "24", *sampling]
    plain = answer(capfd, [*exact, "--no-speculation"])
    assert plain["tokens"]
    for budget in ("auto", "7"):
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
        assert CONTEXT // 4 < stats["prompt_tokens"] <= CONTEXT


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
    assert "it needs at least" in capfd.readouterr().err


def test_the_first_line_alone_can_be_had(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    found = answer(capfd, [*arguments, "--until", "line", "--temperature", "1.5", "--max-tokens", "200", "--line", "2"])
    assert "\n" not in str(found["text"])


def start(arguments: list[str], **streams: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *arguments], start_new_session=True, **streams)  # type: ignore[call-overload]


PRESS_AT_IMPORT = """
import signal, sys
def press(event, details):
    if event == "import" and details[0] == {module!r}:
        signal.raise_signal(signal.SIGINT)
sys.addaudithook(press)
"""
PRESS_WITHIN_A_LIBRARY = """
import signal, sys
def press(event, details):
    if event == "import" and details[0] == "torch":
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("what a library in C makes of it") from None
sys.addaudithook(press)
"""
PRESS_WHILE_LOADING = """
import signal, engine.loading as module
load = module.load_transformer
def press(*arguments):
    signal.raise_signal(signal.SIGINT)
    return load(*arguments)
module.load_transformer = press
"""
PRESS_WHILE_DECODING = """
import signal, engine.engine as module
complete = module.Engine.complete
def press(self, request, cancelled):
    for chunk in complete(self, request, cancelled):
        yield chunk
        if chunk.finish_reason is None:
            signal.raise_signal(signal.SIGINT)
module.Engine.complete = press
"""


@pytest.mark.parametrize(
    ("press", "decoded"),
    [
        (PRESS_AT_IMPORT.format(module="tomllib"), False),
        (PRESS_AT_IMPORT.format(module="torch"), False),
        (PRESS_WITHIN_A_LIBRARY, False),
        (PRESS_WHILE_LOADING, False),
        (PRESS_WHILE_DECODING, True),
    ],
    ids=["start", "libraries", "within libraries", "loading", "decoding"],
)
def test_ctrl_c_ends_in_order_whenever_it_comes(arguments: list[str], press: str, decoded: bool) -> None:
    code = f"import sys\n{press}\nfrom engine.__main__ import main\nsys.exit(main())"
    endless = ["--max-tokens", "300", "--no-speculation", "--temperature", "2", "--seed", "1", "--json"]
    ran = subprocess.run([sys.executable, "-c", code, *arguments, *endless], capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (130, b"")
    if decoded:
        found = json.loads(ran.stdout)
        assert (found["finish_reason"], len(found["tokens"])) == ("cancelled", 1)
    else:
        assert ran.stdout == b""


CLOSED = """
import os, sys
for number in {numbers}:
    os.close(number)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def with_closed(numbers: tuple[int, ...], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CLOSED.format(numbers=numbers), "-m", "engine", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def test_closed_standard_streams_are_no_trouble(arguments: list[str]) -> None:
    short = [*arguments, "--max-tokens", "4"]
    expected = with_closed((), short)
    assert (expected.returncode, expected.stderr) == (0, "")
    for numbers in ((2,), (0, 2)):
        found = with_closed(numbers, short)
        assert (found.returncode, found.stdout) == (0, expected.stdout)
    missing = [arguments[0], "no-such-file.py", *arguments[2:]]
    found = with_closed((2,), missing)
    assert (found.returncode, found.stdout) == (1, "")
    found = with_closed((0, 1), missing)
    assert found.returncode == 1
    assert found.stderr.startswith("treeline: ")
    assert "internal error" not in found.stderr
    assert with_closed((0, 1, 2), short).returncode == 0


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
    decode = [
        "bench",
        "decode",
        "--cases",
        str(cases),
        "--max-tokens",
        "16",
        "--budget",
        "8",
        "--fixed-length",
        *models,
    ]
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
