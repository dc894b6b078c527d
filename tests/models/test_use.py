"""`treeline models use`: what is written into a configuration, and what is left alone."""

from __future__ import annotations

import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.config import load_config
from engine.config_file import set_model
from engine.errors import TreelineError


def test_the_choice_is_what_the_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("TREELINE_CONFIG", raising=False)
    assert main(["models", "use", "bundled"]) == 0
    file = tmp_path / "treeline" / "config.toml"
    assert capsys.readouterr().out == f"model = bundled in {file}\n"
    assert tomllib.loads(file.read_text()) == {"model": "bundled"}


def test_the_file_that_the_environment_names_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "other.toml"
    monkeypatch.setenv("TREELINE_CONFIG", str(file))
    assert main(["models", "use", "bundled"]) == 0
    assert load_config({}, None, {"TREELINE_CONFIG": str(file)}).model == "bundled"


def test_a_model_that_is_not_here_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("TREELINE_CONFIG", raising=False)
    assert main(["models", "use", "qwen2.5-coder-7b"]) == 1
    assert "Qwen/Qwen2.5-Coder-7B-Instruct-AWQ" in capsys.readouterr().err
    assert not (tmp_path / "treeline").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'model = "x"\n'),
        ('# mine\nthreads = 4\nmodel = "old"  # why\n', '# mine\nthreads = 4\nmodel = "x"\n'),
        ("idle_minutes = 5", 'model = "x"\nidle_minutes = 5\n'),
        ("\ufeff'model' = 'old'\n", 'model = "x"\n'),
        ("# model = commented\n", 'model = "x"\n# model = commented\n'),
    ],
)
def test_the_rest_of_the_file_stays(tmp_path: Path, before: str, after: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(before, encoding="utf-8")
    file.chmod(0o600)
    set_model(file, "x")
    assert file.read_text(encoding="utf-8") == after
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["/models/\U0001f916-model", "/models/\u20bb7", 'a "b" \\c', "tab\there", "del\x7f"])
def test_any_name_is_read_back(tmp_path: Path, name: str) -> None:
    file = tmp_path / "config.toml"
    set_model(file, name)
    assert tomllib.loads(file.read_text(encoding="utf-8")) == {"model": name}
    set_model(file, "x")
    assert file.read_text() == 'model = "x"\n'


@pytest.mark.parametrize(
    ("before", "name", "complaint"),
    [("threads = 4\n", "/models/\udce9", "is not UTF-8"), ('model = """\nold"""\n', "x", "cannot be changed in place")],
)
def test_what_cannot_be_written_leaves_the_file(tmp_path: Path, before: str, name: str, complaint: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(before)
    with pytest.raises(TreelineError, match=complaint):
        set_model(file, name)
    assert file.read_text() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_the_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    file.write_text("threads = 4\n")
    make = tempfile.NamedTemporaryFile

    def on_a_full_disk(*arguments: Any, **options: Any) -> Any:
        made = make(*arguments, **options)
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, made.fileno())
        os.close(full)
        return made

    monkeypatch.setattr("engine.config_file.tempfile.NamedTemporaryFile", on_a_full_disk)
    with pytest.raises(TreelineError, match=f"cannot write the configuration {file}: No space left on device"):
        set_model(file, "x")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "threads = 4\n"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.toml", tmp_path / "config.toml"
    real.write_text("")
    link.symlink_to(real)
    set_model(link, "x")
    assert link.is_symlink()
    assert real.read_text() == 'model = "x"\n'


def test_a_broken_file_is_reported_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("model = \n")
    monkeypatch.setenv("TREELINE_CONFIG", str(file))
    assert main(["models", "use", "bundled"]) == 1
    assert f"{file}:1:9" in capsys.readouterr().err
    assert file.read_text() == "model = \n"
