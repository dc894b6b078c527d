"""Treeline beside another extension that suggests text."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.e2e.vscode.code_server import install
from tests.e2e.vscode.conftest import PERIMETER, Opening
from tests.e2e.vscode.recording import until
from tests.e2e.vscode.test_suggestions import ANSWER

THEIRS = " 0  # theirs"
PACKAGE = {
    "name": "neighbour",
    "publisher": "tests",
    "version": "1.0.0",
    "engines": {"vscode": "^1.90.0"},
    "activationEvents": ["onStartupFinished"],
    "main": "./extension.js",
}
CODE = f"""
const {{ languages, Range }} = require("vscode");
const provideInlineCompletionItems = (document, position) =>
  [{{ insertText: {json.dumps(THEIRS)}, range: new Range(position, position) }}];
exports.activate = (context) =>
  context.subscriptions.push(languages.registerInlineCompletionItemProvider("*", {{ provideInlineCompletionItems }}));
"""
MANIFEST = """<?xml version="1.0" encoding="utf-8"?>
<PackageManifest Version="2.0.0" xmlns="http://schemas.microsoft.com/developer/vsx-schema/2011">
  <Metadata><Identity Language="en-US" Id="neighbour" Version="1.0.0" Publisher="tests"/></Metadata>
  <Installation><InstallationTarget Id="Microsoft.VisualStudio.Code"/></Installation>
  <Dependencies/>
  <Assets><Asset Type="Microsoft.VisualStudio.Code.Manifest" Path="extension/package.json" Addressable="true"/></Assets>
</PackageManifest>
"""
TYPES = """<?xml version="1.0" encoding="utf-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
  <Default Extension=".json" ContentType="application/json"/>
  <Default Extension=".js" ContentType="application/javascript"/>
  <Default Extension=".vsixmanifest" ContentType="text/xml"/>
</Types>
"""


@pytest.fixture(scope="module")
def extensions(vsix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the extension installed, and one that always suggests the same."""
    place = tmp_path_factory.mktemp("neighbours")
    with zipfile.ZipFile(place / "neighbour.vsix", "w") as package:
        package.writestr("extension.vsixmanifest", MANIFEST)
        package.writestr("[Content_Types].xml", TYPES)
        package.writestr("extension/package.json", json.dumps(PACKAGE))
        package.writestr("extension/extension.js", CODE)
    return install(place / "installed", vsix, place / "neighbour.vsix")


def test_both_suggestions_are_offered_and_ours_is_accepted(open_workbench: Opening) -> None:
    window = open_workbench()
    window.wait_until_ready()
    window.type("    return")
    seen = [until(lambda: (text := window.ghost_text()) in (ANSWER, THEIRS) and text, "a suggestion of either")]
    while seen[-1] != ANSWER or THEIRS not in seen:
        window.press("Alt+BracketRight")
        seen.append(
            until(lambda: (text := window.ghost_text()) not in ("", seen[-1]) and text, lambda: f"one after {seen}")
        )
        assert len(seen) < 12, seen  # ours may have further candidates
    window.press("Tab")
    window.wait_for_no_ghost()
    window.save(window.folder / "main.py", f"{PERIMETER}    return{ANSWER}")
