"""What is in the packaged extension."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.e2e.vscode.code_server import ROOT


@pytest.fixture(scope="module")
def package(vsix: Path) -> dict[str, bytes]:
    """Its files."""
    with ZipFile(vsix) as archive:
        return {name.removeprefix("extension/"): archive.read(name) for name in archive.namelist()}


def test_the_server_comes_with_the_versions_it_was_tested_with(package: dict[str, bytes]) -> None:
    (wheel,) = [name for name in package if name.endswith(".whl")]
    assert wheel.startswith("server/treeline-")
    assert package["server/constraints.txt"] == (ROOT / "constraints.txt").read_bytes()


def test_the_licences_of_bundled_packages_are_there(package: dict[str, bytes]) -> None:
    notices = package["dist/ThirdPartyNotices.txt"].decode()
    for name in ("vscode-jsonrpc", "vscode-languageclient", "vscode-languageserver-protocol"):
        assert f"\n{name} " in notices
    assert "Permission is hereby granted" in notices


def test_nothing_else_is_packaged(package: dict[str, bytes]) -> None:
    known = ("dist/", "media/", "server/", "walkthrough/")
    files = {name for name in package if not name.startswith(known)}
    manifest = {"extension.vsixmanifest", "[Content_Types].xml"}
    assert {name.lower() for name in files - manifest} == {"package.json", "readme.md", "changelog.md", "license.txt"}
    assert {name for name in package if name.startswith("dist/")} == {
        "dist/extension.cjs",
        "dist/ThirdPartyNotices.txt",
    }
