"""What the documentation names exists."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from engine.config import EngineConfig
from engine.models import PRESETS
from engine.request import CompletionStats
from lsp_server.options import NAMES, Options
from lsp_server.outcomes import Kind

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def section(page: str, heading: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.split(r"^## ", text.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]


def first_column(text: str) -> list[str]:
    return re.findall(r"^\| `(\w+)`", text, flags=re.MULTILINE)


def test_quick_start_is_two_commands_that_make_knows() -> None:
    block = section("README.md", "Quick start").split("```")[1]
    commands = block.split("\n")[1:-1]
    assert commands == ["make complete", "make test"]
    for command in commands:
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_list_of_modules_is_complete() -> None:
    text, _, server = section("docs/architecture.md", "Modules").split("```")[1].partition("\nlsp_server/\n")
    of_server = set(re.findall(r"\w+\.py\b", server.partition("\neditors/")[0]))
    assert {path.name for path in (ROOT / "lsp_server").glob("*.py")} - of_server == {"__init__.py", "__main__.py"}
    assert of_server <= {path.name for path in (ROOT / "lsp_server").glob("*.py")}
    named = set(re.findall(r"\w+\.py\b", text))
    there = {
        path.name
        for folder in ("engine", "engine/speculation", "engine/model")
        for path in (ROOT / folder).glob("*.py")
    }
    assert there - named == {"__init__.py", "__main__.py"}
    assert named - {path.name for path in (ROOT / "engine").rglob("*.py")} == set()


def test_every_statistic_is_explained() -> None:
    assert first_column(section("docs/architecture.md", "Statistics")) == [
        field.name for field in fields(CompletionStats)
    ]


def test_every_setting_is_explained() -> None:
    assert first_column(section("docs/usage.md", "Settings")) == [field.name for field in fields(EngineConfig)]


def test_every_setting_of_the_language_server_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", section("docs/editors.md", "Settings"), flags=re.MULTILINE)
    assert rows == [(name, json.dumps(getattr(Options(), field))) for name, field in NAMES.items()]


def test_every_command_of_the_language_server_is_explained() -> None:
    registered = re.findall(r'"(treeline\.server\.\w+)"', (ROOT / "lsp_server/features.py").read_text(encoding="utf-8"))
    named = re.findall(r"^\| `(\S+)`", section("docs/editors.md", "Commands"), flags=re.MULTILINE)
    assert sorted(named) == sorted(registered)


def test_every_reason_is_explained() -> None:
    named = re.findall(r"^\| `([a-z ]+)`", section("docs/editors.md", "When nothing appears"), flags=re.MULTILINE)
    assert named == list(get_args(Kind))


def test_every_part_of_the_status_is_explained() -> None:
    code = (ROOT / "lsp_server/status.py").read_text(encoding="utf-8")
    sent = re.findall(r'^            "(\w+)":', code, flags=re.MULTILINE)
    named = re.findall(r"`(\w+)`", section("docs/editors.md", "Status"))
    assert sent
    assert set(sent) - set(named) == set()


def test_every_preset_is_explained() -> None:
    rows = re.findall(r"^\| `(\S+)` .* \| (.+) \| (.+) \|$", section("docs/models.md", "Presets"), flags=re.MULTILINE)
    assert rows == [
        (
            preset.name,
            f"{preset.memory // 2**30} GiB" if preset.memory else "any",
            str(preset.context_length or "all"),
        )
        for preset in PRESETS
    ]
