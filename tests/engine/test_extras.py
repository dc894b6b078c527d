"""How to install an extra: always this program's, never what the package index has under its name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine import cli_quantize, extras

ROOT = Path(extras.__file__).parents[1]


def test_in_a_clone_the_clone_is_named() -> None:
    assert extras.installing("server", "lsp") == f"{sys.executable} -m pip install -e '{ROOT}[server,lsp]'"


def test_without_a_clone_the_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "_ROOT", tmp_path)
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    asked = "gradio>=6.0", 'tool>=2; python_version < "3.12" and extra == "web"', "httpx>=0.28 ; extra == 'server'"
    monkeypatch.setattr("importlib.metadata.requires", lambda _: [f"{asked[0]}; extra == 'web'", *asked[1:], "torch"])
    assert extras.installing("web") == f"uv pip install --python {sys.executable} 'gradio>=6.0' 'tool>=2'"


def test_no_message_names_a_package_of_the_index_that_is_not_treeline() -> None:
    sources = [path for package in ("engine", "lsp_server") for path in (ROOT / package).rglob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in [*sources, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
    assert [path for path, text in texts.items() if "install 'treeline" in text or "install treeline" in text] == []
    assert ".venv/bin/pip install -e '.\\[quantize]'" in cli_quantize.EXAMPLES
