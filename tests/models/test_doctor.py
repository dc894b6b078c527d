"""`treeline doctor`: what it finds, what it advises, and which model it suggests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine import doctor
from engine.cli import main
from engine.doctor import Finding, Machine, examine, suggested
from engine.extras import installing
from engine.models import GIB
from tests.server.serving import private


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Nothing runs, nothing is configured, and nothing is downloaded."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    made = private(tmp_path / "run") | {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    made.pop("TREELINE_CONFIG", None)
    return made


def found(file: Path | None, environment: dict[str, str]) -> dict[str, Finding]:
    return {each.what: each for each in examine(file, environment)}


def test_a_machine_on_which_all_is_well(environment: dict[str, str]) -> None:
    all_of_it = found(None, environment)
    assert not [each for each in all_of_it.values() if each.verdict == "problem"]
    assert all_of_it["PyTorch"].found == torch.__version__
    assert all_of_it["model"].found.startswith("bundled in ")
    assert "does not exist" in all_of_it["configuration"].found
    assert all_of_it["running engines"].found.startswith("none")


@pytest.mark.parametrize(
    ("text", "what", "said"),
    [
        ("model = [\n", "configuration", "config.toml: "),
        ("modle = 'x'", "configuration", 'unknown key "modle"'),
        ("model = 'qwen2.5-coder-7b'", "model", "treeline models pull qwen2.5-coder-7b"),
        ("model = 'bundled'\ndrafter = '/nowhere'", "model", "/nowhere does not exist"),
    ],
)
def test_what_is_in_the_way(environment: dict[str, str], tmp_path: Path, text: str, what: str, said: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    finding = found(file, environment)[what]
    assert finding.verdict == "problem"
    assert said in finding.found


def test_what_is_not_installed(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_EXTRAS", {"language server": (("no-such-package",), "lsp")})
    finding = found(None, environment)["language server"]
    assert (finding.verdict, finding.advice) == ("note", installing("lsp"))


@pytest.mark.parametrize(
    ("memory", "gpu", "preset"),
    [
        (8, 0, "bundled"),
        (15.5, 0, "cpu"),
        (16, 8, "cpu"),
        (32, 11.6, "gpu-12gb"),
        (64, 23.5, "gpu-24gb"),
        (64, 80, "gpu-48gb"),
        (0, 0, "bundled"),
    ],
)
def test_the_largest_preset_that_fits_is_suggested(memory: float, gpu: float, preset: str) -> None:
    assert suggested(Machine(int(memory * GIB), int(gpu * GIB))) == preset


def test_the_command(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("TREELINE_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.delenv("TREELINE_CONFIG", raising=False)
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"findings", "machine", "suggested"}
    assert main(["doctor", "--config", str(tmp_path / "none.toml")]) == 1
    shown = capsys.readouterr().out
    assert "PROBLEM  configuration" in shown
    assert "A model for this machine: " in shown
