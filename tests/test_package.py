"""The wheel is complete: what an installed Treeline needs is in it, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import engine

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "lsp_server")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with ZipFile(path) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_of_the_packages(wheel: set[str]) -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    sources = {str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts}
    assert sources - wheel == set()


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel} == set(PACKAGES)
    assert not [name for name in wheel if "__pycache__" in name or name.endswith(".so")]


def test_version_has_one_source() -> None:
    assert version("treeline") == engine.__version__


def test_every_dependency_is_pinned() -> None:
    """An unpinned dependency would install another version tomorrow than it does today."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if not line.startswith("#")}
    wanted = {canonicalize_name(Requirement(line).name) for line in requires("treeline") or ()}
    assert wanted <= pinned
    assert "torch==2.13.0" in lines
