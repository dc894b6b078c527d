"""Build the training corpus: pinned wheels and the standard library, filtered, deduplicated, split by package.

``python -m training.data`` downloads the wheels that packages.toml names, checks them against manifest.json when it
exists (``--update`` rewrites it), and writes ``corpus/train.jsonl`` and ``corpus/heldout.jsonl`` (one
``{"package", "path", "text"}`` a line) into the cache folder. The same inputs give byte-identical files.
"""

from __future__ import annotations

import argparse
import email
import hashlib
import json
import platform
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from training.common import TrainingError, default_cache, progress, sha256_file
from training.source_filter import Deduplicator, is_test, normalise, path_allowed, text_allowed

HERE = Path(__file__).parent
MANIFEST = HERE / "manifest.json"
DEFAULT_CAP = 2_500_000
STDLIB_CAP = 12_000_000
TEST_SHARE = 0.08  # of a package's cap


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned source package; ``cap`` in bytes of accepted source."""

    name: str
    version: str
    split: str = "train"
    cap: int = DEFAULT_CAP


@dataclass(frozen=True, slots=True)
class PackageRecord:
    """What the manifest says of a package after the build."""

    name: str
    version: str
    split: str
    license: str
    archive: str
    sha256: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Document:
    """One source file; ``path`` as it would be imported, with forward slashes."""

    package: str
    path: str
    text: str


def read_packages(path: Path = HERE / "packages.toml") -> list[Package]:
    """Read the pinned packages; held-out ones first, so that deduplication favours them."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["package"]
    packages = [Package(**row) for row in rows]
    return sorted(packages, key=lambda p: (p.split != "heldout", p.name.lower()))


def download(package: Package, archives: Path) -> Path:
    """Fetch the wheel of a pinned package unless it is there; returns its path."""
    stem = package.name.replace("-", "_").lower()

    def find() -> Path | None:
        hits = [p for p in sorted(archives.glob("*.whl")) if p.name.lower().startswith(f"{stem}-{package.version}-")]
        return hits[0] if hits else None

    if (found := find()) is None:
        pinned = f"{package.name}=={package.version}"
        progress(f"downloading {pinned}")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q"]
        if subprocess.run([*command, "-d", str(archives), pinned], check=False).returncode != 0:
            raise TrainingError(f"could not download {pinned}; check the network and the version in packages.toml")
        found = find()
    if found is None:
        raise TrainingError(f"pip wrote no wheel for {package.name}=={package.version} into {archives}")
    return found


def wheel_license(wheel: zipfile.ZipFile) -> str:
    """The licence that a wheel's METADATA declares: its SPDX expression, else its classifiers, else its text."""
    name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1)
    header = email.message_from_bytes(wheel.read(name))
    classifiers = [c.split(" :: ")[-1] for c in header.get_all("Classifier", []) if c.startswith("License ::")]
    license_text = str(header.get("License") or "unknown").split("\n")[0]
    return str(header.get("License-Expression") or "; ".join(classifiers) or license_text)


def wheel_files(wheel: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of every candidate file of a wheel."""
    for name in wheel.namelist():
        if path_allowed(name):
            yield name, wheel.read(name)


def stdlib_files() -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of every candidate file of the running Python's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in root.rglob("*.py"):
        relative = path.relative_to(root).as_posix()
        if path_allowed(relative) and not is_test(relative):
            yield relative, path.read_bytes()


def select(package: Package, files: Iterator[tuple[str, bytes]], seen: Deduplicator) -> list[Document]:
    """Filter, deduplicate and cap one package's files, in an order fixed by the hash of their paths."""
    chosen: list[Document] = []
    total = tests = 0
    for path, raw in sorted(files, key=lambda item: hashlib.sha256(item[0].encode()).digest()):
        text = normalise(raw)
        if text is None or not text_allowed(text) or total + len(raw) > package.cap:
            continue
        if is_test(path) and tests + len(raw) > TEST_SHARE * package.cap:
            continue
        if not seen.admit(text):
            continue
        total += len(raw)
        tests += len(raw) if is_test(path) else 0
        chosen.append(Document(package.name, path, text))
    return sorted(chosen, key=lambda d: d.path)


@dataclass(slots=True)
class Collector:
    """Selects package after package, with one deduplicator for all of them."""

    archives: Path
    documents: dict[str, list[Document]] = field(default_factory=lambda: {"train": [], "heldout": []})
    records: list[PackageRecord] = field(default_factory=list)
    _seen: Deduplicator = field(default_factory=Deduplicator)

    def add(self, package: Package, files: Iterator[tuple[str, bytes]], license_: str, archive: Path | None) -> None:
        """Take a package's files and write its manifest row."""
        chosen = select(package, files, self._seen)
        size = sum(len(d.text.encode()) for d in chosen)
        source = (archive.name, sha256_file(archive)) if archive else ("", "")
        row = PackageRecord(package.name, package.version, package.split, license_, *source, len(chosen), size)
        self.records.append(row)
        self.documents[package.split].extend(chosen)
        progress(f"{package.split:8} {package.name:18} {len(chosen):5} files {size / 1e6:6.2f} MB  {license_}")

    def add_wheel(self, package: Package) -> None:
        """Download a pinned package and take its files."""
        path = download(package, self.archives)
        with zipfile.ZipFile(path) as wheel:
            self.add(package, wheel_files(wheel), wheel_license(wheel), path)


def collect(packages: list[Package], archives: Path) -> Collector:
    """Download and select everything: held-out packages, the standard library, the other packages."""
    archives.mkdir(parents=True, exist_ok=True)
    collector = Collector(archives)
    heldout = [p for p in packages if p.split == "heldout"]
    for package in heldout:
        collector.add_wheel(package)
    stdlib = Package("python-stdlib", platform.python_version(), "train", STDLIB_CAP)
    collector.add(stdlib, stdlib_files(), "PSF-2.0", None)
    for package in packages:
        if package not in heldout:
            collector.add_wheel(package)
    return collector


def write_split(documents: list[Document], path: Path) -> str:
    """Write one JSON line per document; returns the file's SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for document in documents:
            out.write(json.dumps(asdict(document), sort_keys=True) + "\n")
    return sha256_file(path)


def read_split(cache: Path, split: str) -> list[Document]:
    """Read one split of the corpus ("train" or "heldout")."""
    path = cache / "corpus" / f"{split}.jsonl"
    if not path.exists():
        raise TrainingError(f"{path} does not exist; make it with: python -m training.data --cache {cache}")
    with path.open(encoding="utf-8") as stream:
        return [Document(**json.loads(line)) for line in stream]


def build(cache: Path, update: bool) -> None:
    """Build both splits and check them against the manifest, or rewrite it with ``update``."""
    collected = collect(read_packages(), cache / "archives")
    documents = collected.documents
    hashes = {split: write_split(docs, cache / "corpus" / f"{split}.jsonl") for split, docs in documents.items()}
    manifest = {
        "python": platform.python_version(),
        "corpus_sha256": hashes,
        "bytes": {split: sum(len(d.text.encode()) for d in docs) for split, docs in documents.items()},
        "files": {split: len(docs) for split, docs in documents.items()},
        "packages": [asdict(r) for r in collected.records],
    }
    if update or not MANIFEST.exists():
        MANIFEST.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        progress(f"wrote {MANIFEST}")
        return
    known = json.loads(MANIFEST.read_text(encoding="utf-8"))
    if known["corpus_sha256"] != hashes:
        was, now = known["python"], platform.python_version()
        raise TrainingError(
            f"the corpus differs from manifest.json (made with Python {was}, this is {now}); use that Python, "
            "or accept the new corpus with --update"
        )
    progress("corpus agrees with manifest.json")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description=__doc__)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--update", action="store_true", help="rewrite manifest.json instead of checking against it")
    arguments = parser.parse_args()
    try:
        build(arguments.cache, arguments.update)
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
