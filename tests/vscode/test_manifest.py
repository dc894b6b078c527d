"""The extension's package.json agrees with the server and with the extension's code."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import engine
from lsp_server.options import NAMES, Options, read_options

EXTENSION = Path(__file__).parents[2] / "vscode-extension"
MANIFEST: dict[str, Any] = json.loads((EXTENSION / "package.json").read_text(encoding="utf-8"))
SETTINGS: dict[str, dict[str, Any]] = MANIFEST["contributes"]["configuration"]["properties"]
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in (EXTENSION / "src").glob("*.ts"))
OWN = {"treeline.serverCommand"}  # the extension's own, of which the server is not told


def test_the_defaults_are_the_servers() -> None:
    defaults = {name: asdict(Options())[field] for name, field in NAMES.items()}
    shown = {name.removeprefix("treeline."): each["default"] for name, each in SETTINGS.items() if name not in OWN}
    assert shown == {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}


def test_the_server_is_told_the_settings_that_it_knows() -> None:
    listed = re.search(r"SERVER_SETTINGS = \[(.*?)\]", (EXTENSION / "src" / "settings.ts").read_text(), re.DOTALL)
    assert listed
    assert re.findall(r'"(\w+)"', listed[1]) == list(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_the_editor_takes_the_server_takes(name: str) -> None:
    """Both ends of every range are taken, and what lies beyond them is not."""
    setting = SETTINGS[f"treeline.{name}"]
    for key, step in (("minimum", -1), ("maximum", 1)):
        if key in setting:
            assert read_options(Options(), {name: setting[key]})[1] == []
            assert len(read_options(Options(), {name: setting[key] + step})[1]) == 1


def test_every_setting_has_a_description_a_scope_and_a_place() -> None:
    for setting in SETTINGS.values():
        assert setting.get("description") or setting.get("markdownDescription")
        assert setting["scope"] in ("window", "machine-overridable")
    assert sorted(each["order"] for each in SETTINGS.values()) == list(range(1, len(SETTINGS) + 1))


def test_a_folder_that_is_not_trusted_names_no_program() -> None:
    trust = MANIFEST["capabilities"]["untrustedWorkspaces"]
    assert trust["supported"] == "limited"
    assert set(trust["restrictedConfigurations"]) == OWN


def test_every_command_is_there() -> None:
    registered = set(re.findall(r"^    (\w+): \(\) =>", (EXTENSION / "src" / "commands.ts").read_text(), re.MULTILINE))
    contributed = {each["command"].removeprefix("treeline.") for each in MANIFEST["contributes"]["commands"]}
    assert registered - contributed == {"openSettings"}  # the editor has a command of its own for that
    assert contributed <= registered
    linked = re.findall(r"command:treeline\.(\w+)", json.dumps(MANIFEST["contributes"]["walkthroughs"]))
    names = {*linked, *re.findall(r'"treeline\.(\w+)"', SOURCES)}
    assert names - registered <= {"found", "language", "running", "statistics", "status"}  # items, context keys, a page


def test_no_key_is_bound_and_nothing_is_provided_beside_the_server() -> None:
    assert set(MANIFEST["contributes"]) == {"commands", "configuration", "walkthroughs"}
    assert "InlineCompletionItemProvider" not in SOURCES
    assert MANIFEST["activationEvents"] == ["onStartupFinished"]
    assert MANIFEST["extensionKind"] == ["workspace", "ui"]


def test_versions_are_the_same() -> None:
    root = json.loads((EXTENSION.parent / "package.json").read_text())
    assert MANIFEST["version"] == root["version"] == engine.__version__


def test_walkthrough_pages_are_there() -> None:
    (walkthrough,) = MANIFEST["contributes"]["walkthroughs"]
    assert [step for step in walkthrough["steps"] if not (EXTENSION / step["media"]["markdown"]).exists()] == []


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((EXTENSION.parent / "package-lock.json").read_text())
    places = [each["resolved"] for each in lock["packages"].values() if "resolved" in each]
    assert places == ["vscode-extension"]
