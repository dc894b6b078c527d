"""The command line: what is printed where, exit statuses, and one clear line for every bad input.

The engine here is a script, so that the text to print is known; tests/engine/test_cli_engine.py runs the real one.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import engine
from engine.cli import app, main
from engine.cli_complete import QUICK_OPTIONS, quick, stop_rules
from engine.config import EngineConfig
from engine.errors import TreelineError
from engine.request import CompletionChunk, CompletionRequest, CompletionStats, StopRules

STATS = CompletionStats(120, 100, 6, 2, 3.0, 20, 5.0, 6.0, 30.0, 200.0, 1 << 20)
PIECES = (("return a ", (1, 2, 3)), ("+ b\n", (4, 5)), ("é\n", (6,)))


_SPELLED = (
    "--max-tokens 9 --deadline-ms 250 --temperature 0.5 --top-p 0.9 --top-k 40 --repetition-penalty 1.1 --seed 3"
    " --model a/b --drafter none --memory 8GiB --device cpu --dtype float32 --budget 32 --verification sequoia"
    " --layout plain --threads 2 --no-speculation --no-daemon --stop END --stop \n\n --until line"
)
EVERY_OPTION = _SPELLED.split(" ")


class ScriptedEngine:
    """Says PIECES; remembers what it was asked. `press` raises the signal of Ctrl-C after the first piece."""

    def __init__(self) -> None:
        self.config: EngineConfig | None = None
        self.request: CompletionRequest | None = None
        self.press = False

    def complete(self, request: CompletionRequest, cancelled: Callable[[], bool]) -> Iterator[CompletionChunk]:
        self.request = request
        for text, tokens in PIECES:
            yield CompletionChunk(text, tokens)
            if self.press:
                signal.raise_signal(signal.SIGINT)
            if cancelled():
                yield CompletionChunk("", (), "cancelled", STATS)
                return
        yield CompletionChunk("", (), "stop", STATS)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedEngine:
    fake = ScriptedEngine()

    def load(config: EngineConfig) -> ScriptedEngine:
        fake.config = config
        return fake

    monkeypatch.setattr("engine.cli_engine.load_engine", load)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    return fake


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "sum.py"
    path.write_text("def add(a, b):\n    \nprint(add(1, 2))\n", encoding="utf-8")
    return path


def asked(scripted: ScriptedEngine) -> CompletionRequest:
    assert scripted.request is not None
    return scripted.request


def test_the_text_and_nothing_else_is_printed(
    scripted: ScriptedEngine, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["complete", str(source), "--line", "2", "--column", "5"]) == 0
    printed = capfd.readouterr()
    assert printed.out == "return a + b\né\n"
    assert printed.err == ""
    request = asked(scripted)
    assert request.prefix == "def add(a, b):\n    "
    assert request.suffix == "\nprint(add(1, 2))\n"
    assert (request.path, request.language, request.max_tokens, request.speculation) == (
        str(source),
        "python",
        64,
        True,
    )


def test_json_is_the_object_of_the_contract(
    scripted: ScriptedEngine, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["complete", str(source), "--json"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    answer = json.loads(printed.out)
    assert list(answer) == ["text", "finish_reason", "tokens", "stats"]
    assert (answer["text"], answer["finish_reason"]) == ("return a + b\né\n", "stop")
    assert answer["tokens"] == [1, 2, 3, 4, 5, 6]
    counts = ["prompt_tokens", "cached_tokens", "new_tokens", "target_passes", "accepted_per_pass", "drafted_tokens"]
    times = ["prefill_ms", "first_token_ms", "total_ms", "tokens_per_second", "peak_rss_bytes"]
    assert list(answer["stats"]) == counts + times
    assert asked(scripted).suffix == ""


@pytest.mark.usefixtures("scripted")
def test_stats_are_one_line_on_standard_error(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", str(source), "--stats"]) == 0
    printed = capfd.readouterr()
    assert printed.out == "return a + b\né\n"
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("6 tokens in 2 target passes (3.00 per pass), 200.0 tokens/s")


def test_every_option_reaches_the_engine(scripted: ScriptedEngine, source: Path) -> None:
    assert main(["complete", str(source), *EVERY_OPTION]) == 0
    request = asked(scripted)
    assert (request.max_tokens, request.deadline_ms, request.budget, request.speculation) == (9, 250, 32, False)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 40)
    assert (sampling.repetition_penalty, sampling.seed) == (1.1, 3)
    assert request.stop == StopRules(("END", "\n\n"), end_of_line=True)
    expected = EngineConfig("a/b", "none", "cpu", "float32", 8 << 30, None, 32, "sequoia", "plain", 2, daemon=False)
    assert scripted.config == expected


def test_settings_come_from_the_file_and_the_environment(
    scripted: ScriptedEngine, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "treeline.toml"
    file.write_text('model = "from/file"\nbudget = 4\n')
    monkeypatch.setenv("TREELINE_THREADS", "3")
    assert main(["complete", str(source), "--config", str(file), "--budget", "auto"]) == 0
    assert scripted.config == EngineConfig(model="from/file", threads=3, daemon=False)
    assert asked(scripted).budget is None


def test_windows_line_ends_are_kept(
    scripted: ScriptedEngine, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "dos.py"
    path.write_bytes(b"\xef\xbb\xbfdef f():\r\n    pass\r\n")
    assert main(["complete", str(path), "--line", "1"]) == 0
    assert capfdbinary.readouterr().out == "return a + b\r\né\r\n".encode()
    assert (asked(scripted).prefix, asked(scripted).suffix) == ("def f():", "\n    pass\n")


def test_standard_input_with_a_cursor(scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("é = 1\nb".encode())))
    assert main(["complete", "-", "--cursor", "2", "--stdin-filename", "x.rs"]) == 0
    request = asked(scripted)
    assert (request.prefix, request.suffix, request.path, request.language) == ("é ", "= 1\nb", "x.rs", "rust")


def test_an_empty_file_completes(scripted: ScriptedEngine, tmp_path: Path) -> None:
    (tmp_path / "empty.py").touch()
    for arguments in ([], ["--line", "1", "--column", "1"], ["--cursor", "0"]):
        assert main(["complete", str(tmp_path / "empty.py"), *arguments]) == 0
        assert (asked(scripted).prefix, asked(scripted).suffix) == ("", "")


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_stops_the_engine_and_says_so(
    scripted: ScriptedEngine, source: Path, capfd: pytest.CaptureFixture[str], as_json: bool
) -> None:
    scripted.press = True
    before = signal.getsignal(signal.SIGINT)
    assert main(["complete", str(source), *(["--json"] if as_json else [])]) == 130
    printed = capfd.readouterr()
    assert printed.err == ""
    if as_json:
        assert json.loads(printed.out)["finish_reason"] == "cancelled"
    else:
        assert printed.out == "return a "
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("prefix", "until", "rules"),
    [
        ("x = ", None, StopRules()),
        ("x = ", "line", StopRules(end_of_line=True)),
        ("class A:\n    def f(self):", "block", StopRules(min_indent=5)),
        ("class A:\n    def f(self):\n        x = 1\n        ", "block", StopRules(min_indent=8)),
        ("if x:\n\ty = ", "block", StopRules(min_indent=8)),
        ("", "block", StopRules(min_indent=0)),
    ],
)
def test_until_is_a_stop_rule(prefix: str, until: str | None, rules: StopRules) -> None:
    assert stop_rules(prefix, until, ()) == rules


# --- bad input -------------------------------------------------------------------------------------------------------

WRONG_USAGE = [
    ([], None),
    (["complete"], "Missing argument 'FILE'"),
    (["complet"], "No such command 'complet'"),
    (["complete", "FILE", "more"], "unexpected extra argument"),
    (["complete", "FILE", "--colunm", "3"], "--column"),
    (["complete", "FILE", "--line", "0"], "--line"),
    (["complete", "FILE", "--line", "one"], "--line"),
    (["complete", "FILE", "--line", "2", "--column", "0"], "--column"),
    (["complete", "FILE", "--column", "3"], "--column: it needs --line"),
    (["complete", "FILE", "--cursor", "3", "--line", "1"], "--cursor: it takes the place of --line"),
    (["complete", "FILE", "--cursor", "-1"], "--cursor"),
    (["complete", "FILE", "--max-tokens", "0"], "--max-tokens"),
    (["complete", "FILE", "--deadline-ms", "0"], "--deadline-ms: 0.0: it must be above 0"),
    (["complete", "FILE", "--deadline-ms", "nan"], "--deadline-ms: nan: it must be above 0"),
    (["complete", "FILE", "--temperature", "-0.5"], "--temperature: -0.5: it must be from 0 to 1000"),
    (["complete", "FILE", "--temperature", "nan"], "--temperature: nan"),
    (["complete", "FILE", "--temperature", "warm"], "--temperature"),
    (["complete", "FILE", "--top-p", "0"], "--top-p: 0.0: it must be above 0 and at most 1"),
    (["complete", "FILE", "--top-p", "1.1"], "--top-p: 1.1: it must be above 0 and at most 1"),
    (["complete", "FILE", "--top-k", "-1"], "--top-k: -1: it must be at least 0"),
    (["complete", "FILE", "--repetition-penalty", "0"], "--repetition-penalty: 0.0: it must be from 0.001 to 1000"),
    (["complete", "FILE", "--seed", "-1"], "--seed: -1: it must be at least 0"),
    (["complete", "FILE", "--budget", "0"], "--budget: '0': expected an integer from 1 to 512, or \"auto\""),
    (["complete", "FILE", "--budget", "some"], "--budget: 'some'"),
    (["complete", "FILE", "--memory", "lots"], "--memory: 'lots': expected a size such as \"8GiB\""),
    (["complete", "FILE", "--device", "tpu"], '--device: \'tpu\': expected one of "auto", "cpu", "cuda"'),
    (["complete", "FILE", "--dtype", "int3"], "--dtype: 'int3'"),
    (["complete", "FILE", "--verification", "none"], "--verification: 'none'"),
    (["complete", "FILE", "--threads", "0"], "--threads: '0'"),
    (["complete", "FILE", "--until", "noon"], "--until"),
    (["complete", "FILE", "--stop", ""], "--stop: it must not be empty"),
    (["complete", "FILE", "--model", ""], "--model: '': expected a preset"),
    (["bench"], None),
    (["bench", "decode"], "Missing option '--cases'"),
    (["bench", "decode", "--cases", "FILE", "--limit", "0"], "--limit"),
    (["bench", "replay"], "Missing option '--cases'"),
    (["bench", "replay", "--cases", "FILE", "--client", "emacs"], "--client"),
    (["bench", "decode", "--cases", "FILE", "--temperature", "-1"], "--temperature: -1.0: it must be from 0 to 1000"),
]


@pytest.mark.parametrize(("arguments", "complaint"), WRONG_USAGE)
def test_wrong_usage_is_2_and_names_the_option(
    scripted: ScriptedEngine,
    source: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str | None,
) -> None:
    assert main([str(source) if word == "FILE" else word for word in arguments]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert scripted.config is None
    if complaint is None:  # a group without its command: its help
        assert "Usage: treeline" in printed.err
    else:
        assert printed.err.startswith("treeline: ")
        assert complaint in printed.err
        assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["complete", "/no/such.py"], "/no/such.py does not exist"),
        (["complete", "/"], "/ is a directory"),
        (["complete", "BINARY"], "is not text (a NUL byte at offset 3)"),
        (["complete", "LATIN"], "is not UTF-8 (byte 0xe9 at offset 0)"),
        (["complete", "FILE", "--line", "5"], "has lines 1 to 4"),
        (["complete", "FILE", "--line", "1", "--column", "16"], "has columns 1 to 15"),
        (["complete", "FILE", "--cursor", "38"], "has offsets 0 to 37"),
        (["complete", "FILE", "--config", "/no/such.toml"], "/no/such.toml does not exist"),
        (["complete", "FILE", "--config", "FILE"], "sum.py:1:5: "),
        (["bench", "offload", "--memory", "2GiB", "--prompt", "/no/such.py"], "/no/such.py does not exist"),
        (["bench", "decode", "--cases", "/no/such.jsonl"], "cannot read the cases /no/such.jsonl"),
        (["bench", "replay", "--cases", "/no/such.jsonl"], "cannot read the cases /no/such.jsonl"),
        (["bench", "decode", "--cases", "FILE"], "sum.py:1: not JSON"),
    ],
)
def test_a_failure_is_1_and_one_line(
    scripted: ScriptedEngine, source: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    (source.parent / "binary").write_bytes(b"ELF\0\xff")
    (source.parent / "latin").write_bytes(b"\xe9")
    places = {"FILE": str(source), "BINARY": str(source.parent / "binary"), "LATIN": str(source.parent / "latin")}
    assert main([places.get(word, word) for word in arguments]) == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("treeline: ")
    assert complaint in printed.err
    assert printed.err.count("\n") == 1
    assert scripted.config is None


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (TreelineError("the model x\nis missing"), 1, "treeline: the model x is missing\n"),
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 1, "treeline: out of memory"),
        (RuntimeError("shapes"), 1, "treeline: internal error (RuntimeError: shapes): please report it"),
    ],
)
def test_what_goes_wrong_inside_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch,
    source: Path,
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    line: str,
) -> None:
    def load(_: EngineConfig) -> None:
        raise error

    monkeypatch.setattr("engine.cli_engine.load_engine", load)
    assert main(["complete", str(source)]) == status
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(line)
    assert printed.err.count("\n") == bool(line)


# --- the process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["complete", "--help"], ["complete", "x", "--top-k", "-1"]]
)
def test_help_and_usage_errors_load_no_model_library(arguments: list[str]) -> None:
    code = (
        "import sys; from engine.cli import main; main(sys.argv[1:]);"
        "slow = {'torch', 'numpy', 'transformers', 'tokenizers', 'safetensors', 'huggingface_hub'};"
        "print(*(slow & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines()[-1] == ""


def test_the_module_is_the_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "engine", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"treeline {engine.__version__}\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "import sys; from engine.cli import main; sys.exit(main(['complete', '--help']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_help_shows_every_option_of_the_contract(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["complete", "--help"]) == 0
    text = capfd.readouterr().out
    contract = (
        "line column json max-tokens deadline-ms temperature top-p top-k seed no-speculation no-daemon model drafter"
    )
    for option in [*contract.split(), "memory", "device", "config", "cursor"]:
        assert f"--{option}" in text
    assert "Examples" in text


def test_help_shows_flags_without_a_value(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for command in (["complete"], ["models"], ["models", "remove"], []):
        assert main([*command, "--help"]) == 0
        text = capfd.readouterr().out
        assert "--help" in text
        assert "bool" not in text


# --- the quick way, which parses without typer

QUICK = [
    EVERY_OPTION,
    ["--line", "2", "--column=5", "--json"],
    ["--cursor", "7", "--stats"],
    ["--stdin-filename", "a.rs"],
]


@pytest.mark.parametrize("arguments", QUICK)
def test_the_quick_way_is_the_full_one(
    scripted: ScriptedEngine, source: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    found: list[object] = []
    for run in (main, lambda words: quick(words[1:])):
        assert run(["complete", str(source), *arguments]) == 0
        found.append((scripted.config, scripted.request, capfd.readouterr()))
    assert found[0] == found[1]


def test_the_quick_way_knows_every_option() -> None:
    command = get_command(app).commands["complete"]  # type: ignore[attr-defined]
    declared = {name for option in command.params for name in option.opts if name.startswith("--")}
    assert declared == QUICK_OPTIONS


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--help",
        "a.py b.py",
        "a.py --lime 3",
        "a.py --line",
        "a.py --line 0",
        "a.py --line x",
        "a.py --json=1",
        "a.py -x",
    ],
)
def test_the_quick_way_leaves_mistakes_to_the_full_one(arguments: str) -> None:
    assert quick(arguments.split()) is None


def test_the_quick_way_leaves_bad_values_to_the_full_one(source: Path) -> None:
    for bad in (["--temperature", "-1"], ["--column", "2"], ["--threads", "none"], ["--stop", ""]):
        assert quick([str(source), *bad]) is None


def test_where_nothing_can_be_served_the_engine_is_loaded_here(
    scripted: ScriptedEngine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREELINE_DAEMON", "true")
    monkeypatch.setattr("engine.cli_engine.can_serve", lambda: False)
    assert main(["complete", str(source)]) == 0
    assert asked(scripted).prefix
