"""Pinned packages from PyPI (wheels) and npm (tarballs): download, declared licence, files."""

from __future__ import annotations

import email
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from training.common import TrainingError, progress
from training.source_filter import language_of

DEFAULT_CAP = 2_500_000
# Licences that ask for no more than their notice: SPDX names, and what PyPI's classifiers and packages call them.
_PERMISSIVE = frozenset(
    {"0bsd", "apache-2.0", "apache license 2.0", "apache 2.0 license", "apache software license", "blueoak-1.0.0"}
    | {"bsd", "bsd license", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "hpnd", "isc", "isc license iscl", "mit"}
    | {"mit license", "mit-0", "mit-cmu", "ncsa", "psf-2.0", "python-2.0", "python software foundation license"}
    | {"unlicense", "the unlicense unlicense", "zlib", "llvm-exception"}
)


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned source package; ``cap`` in bytes of accepted source in its main language."""

    name: str
    version: str
    source: str = "pypi"  # or "npm"
    split: str = "train"
    cap: int = DEFAULT_CAP


@dataclass(frozen=True, slots=True)
class Archive:
    """A downloaded package: its file, the licence that it declares, its members as (path, bytes)."""

    path: Path
    license: str
    files: Iterator[tuple[str, bytes]]


def is_permissive(license_: str) -> bool:
    """Whether a declared licence is permissive: every part of an AND, one part of an OR, every classifier."""
    text = license_.lower().replace("(", "").replace(")", "")
    alternatives = [text] if ";" in text else re.split(r" or |/", text)
    return any(
        all(part.strip() in _PERMISSIVE for part in re.split(r" and | with |;", alternative))
        for alternative in alternatives
    )


def download(package: Package, archives: Path) -> Path:
    """Fetch a pinned package's archive unless it is there; returns its path."""
    archives.mkdir(parents=True, exist_ok=True)
    if (found := _find(package, archives)) is None:
        progress(f"downloading {package.source} {package.name} {package.version}")
        if package.source == "npm":
            command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        else:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q"]
            command = [*pip, f"{package.name}=={package.version}"]
        try:
            done = subprocess.run(command, cwd=archives, check=False, stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            raise TrainingError(f"{command[0]} is needed to fetch {package.name}: install Node.js") from None
        if done.returncode != 0:
            raise TrainingError(
                f"could not download {package.name} {package.version} from {package.source}; "
                "check the network and the version in packages.toml"
            )
        found = _find(package, archives)
    if found is None:
        raise TrainingError(f"no archive of {package.name} {package.version} came to {archives}")
    return found


def _find(package: Package, archives: Path) -> Path | None:
    if package.source == "npm":
        path = archives / f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"
        return path if path.exists() else None
    wanted = (re.sub(r"[-_.]+", "_", package.name).lower(), package.version.lower())
    for path in sorted(archives.glob("*.whl")):
        name, version = path.name.lower().split("-")[:2]
        if (re.sub(r"[-_.]+", "_", name), version) == wanted:
            return path
    return None


def open_archive(package: Package, path: Path) -> Archive:
    """Read the licence of a downloaded package; its files are read one by one as they are asked for."""
    if package.source == "npm":
        return Archive(path, npm_license(path), npm_files(package.name, path))
    return Archive(path, wheel_license(path), wheel_files(path))


def wheel_license(path: Path) -> str:
    """The licence in a wheel's METADATA: its SPDX expression, else its classifiers, else its text."""
    with zipfile.ZipFile(path) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1)
        header = email.message_from_bytes(wheel.read(name))
    classifiers = [c.split(" :: ")[-1] for c in header.get_all("Classifier", []) if c.startswith("License ::")]
    named = [c for c in classifiers if c != "OSI Approved"]
    license_text = str(header.get("License") or "unknown").split("\n")[0]
    return str(header.get("License-Expression") or "; ".join(named) or license_text)


def wheel_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of every file of a wheel that may be read at all."""
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if language_of(name):
                yield name, wheel.read(name)


def npm_license(path: Path) -> str:
    """The licence in a tarball's package.json."""
    with tarfile.open(path) as tarball:
        for member in tarball:
            if PurePosixPath(member.name).parts[1:] == ("package.json",):
                content = tarball.extractfile(member)
                found = json.loads(content.read() if content else b"{}").get("license")
                return str(found["type"] if isinstance(found, dict) else found or "unknown")
    return "unknown"


def npm_files(name: str, path: Path) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of a tarball's files that may be read at all; their common folder is called like the package."""
    with tarfile.open(path) as tarball:
        for member in tarball:
            inside = "/".join((name, *PurePosixPath(member.name).parts[1:]))
            content = tarball.extractfile(member) if member.isfile() and language_of(inside) else None
            if content is not None:
                yield inside, content.read()
