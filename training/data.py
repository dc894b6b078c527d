"""Build the training corpus: pinned packages and the standard library, filtered, deduplicated, split by package.

``python -m training.data`` downloads what packages.toml names (wheels from PyPI, tarballs from npm), checks the result
against manifest.json (``--update`` rewrites it), and writes ``corpus/train.jsonl`` and ``corpus/heldout.jsonl`` (one
``{"language", "package", "path", "text"}`` a line) into the cache folder. The same inputs give byte-identical files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import sysconfig
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from training.archives import Package, download, is_permissive, open_archive
from training.common import TrainingError, default_cache, progress, sha256_file
from training.source_filter import Deduplicator, is_test, language_of, normalise, text_allowed

HERE = Path(__file__).parent
MANIFEST = HERE / "manifest.json"
TOKENIZER = HERE.parent / "engine" / "assets" / "target" / "tokenizer.json"  # counts the manifest's tokens
STDLIB = "python-stdlib"
STDLIB_CAP = 12_000_000
SIDE_CAP = 400_000  # of a package's source in other languages than its first
TEST_SHARE = 0.08  # of a cap
SPLITS = ("train", "heldout")


@dataclass(frozen=True, slots=True)
class Document:
    """One source file; ``path`` as it would be imported, with forward slashes."""

    package: str
    path: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class PackageRecord:
    """What the manifest says of a package after the build; ``languages``: its files, bytes and tokens in each."""

    name: str
    version: str
    source: str
    split: str
    license: str
    archive: str
    sha256: str
    languages: dict[str, dict[str, int]]


def read_packages(path: Path = HERE / "packages.toml") -> list[Package]:
    """Read the pinned packages; held-out ones first, so that deduplication favours them."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["package"]
    packages = [Package(**row) for row in rows]
    return sorted(packages, key=lambda p: (p.split != "heldout", p.source != "pypi", p.name.lower()))


def stdlib_files() -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of every candidate file of the running Python's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in root.rglob("*.py"):
        relative = path.relative_to(root).as_posix()
        if language_of(relative) and not is_test(relative):
            yield relative, path.read_bytes()


def select(package: Package, files: Iterable[tuple[str, bytes]], seen: Deduplicator) -> list[Document]:
    """Filter, deduplicate and cap one package's files, in an order fixed by the hash of their paths."""
    chosen: list[Document] = []
    total, tests = Counter[str](), Counter[str]()
    candidates = ((path, language, raw) for path, raw in files if (language := language_of(path)))
    for path, language, raw in sorted(candidates, key=lambda item: hashlib.sha256(item[0].encode()).digest()):
        cap = package.cap if language == "python" else SIDE_CAP
        text = normalise(raw) if total[language] + len(raw) <= cap else None
        if text is None or not text_allowed(text, language):
            continue
        if is_test(path) and tests[language] + len(raw) > TEST_SHARE * cap:
            continue
        if not seen.admit(text):
            continue
        total[language] += len(raw)
        tests[language] += len(raw) if is_test(path) else 0
        chosen.append(Document(package.name, path, language, text))
    return sorted(chosen, key=lambda d: d.path)


@dataclass(slots=True)
class Collector:
    """Selects package after package, with one deduplicator for all of them."""

    tokenizer: Tokenizer
    documents: dict[str, list[Document]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    records: list[PackageRecord] = field(default_factory=list)
    _seen: Deduplicator = field(default_factory=Deduplicator)

    def add(self, package: Package, files: Iterable[tuple[str, bytes]], license_: str, archive: Path | None) -> None:
        """Take a package's files and write its manifest row; TrainingError unless its licence is permissive."""
        if not is_permissive(license_):
            raise TrainingError(f"{package.name} {package.version} is not permissively licensed: {license_}")
        chosen = select(package, files, self._seen)
        source = (archive.name, sha256_file(archive)) if archive else ("", "")
        languages = self._count(chosen)
        named = (package.name, package.version, package.source, package.split, license_)
        self.records.append(PackageRecord(*named, *source, languages))
        self.documents[package.split].extend(chosen)
        sizes = ", ".join(f"{language} {row['bytes'] / 1e6:.2f} MB" for language, row in languages.items())
        progress(f"{package.split:8} {package.name:18} {len(chosen):5} files  {sizes or 'nothing'}  {license_}")

    def _count(self, documents: list[Document]) -> dict[str, dict[str, int]]:
        rows: dict[str, Counter[str]] = defaultdict(Counter)
        encoded = self.tokenizer.encode_batch([d.text for d in documents], add_special_tokens=False)
        for document, encoding in zip(documents, encoded, strict=True):
            rows[document.language].update(files=1, bytes=len(document.text.encode()), tokens=len(encoding.ids))
        return {language: dict(rows[language]) for language in sorted(rows)}


def collect(packages: list[Package], archives: Path) -> Collector:
    """Download and select everything: held-out packages, the standard library, the other packages."""
    collector = Collector(Tokenizer.from_file(str(TOKENIZER)))
    stdlib = Package(STDLIB, platform.python_version(), STDLIB, "train", STDLIB_CAP)
    heldout = [p for p in packages if p.split == "heldout"]
    for package in [*heldout, stdlib, *packages[len(heldout) :]]:
        if package is stdlib:
            collector.add(stdlib, stdlib_files(), "PSF-2.0", None)
        else:
            archive = open_archive(package, download(package, archives))
            collector.add(package, archive.files, archive.license, archive.path)
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


def manifest_of(collector: Collector, hashes: dict[str, str]) -> dict[str, Any]:
    """The manifest: the corpus's hashes, its totals by split and language, and a row for every package."""
    totals: dict[str, dict[str, Counter[str]]] = {split: defaultdict(Counter) for split in SPLITS}
    for record in collector.records:
        for language, row in record.languages.items():
            totals[record.split][language].update(row)
    return {
        "python": platform.python_version(),
        "corpus_sha256": hashes,
        "tokenizer_sha256": sha256_file(TOKENIZER),
        "totals": {split: {name: dict(rows[name]) for name in sorted(rows)} for split, rows in totals.items()},
        "packages": [asdict(r) for r in collector.records],
    }


def write_manifest(manifest: dict[str, Any]) -> None:
    """Write manifest.json, one package a line."""
    rows = ",\n  ".join(json.dumps(row) for row in manifest["packages"])
    head = json.dumps({**manifest, "packages": []}, indent=1)
    MANIFEST.write_text(head.removesuffix("[]\n}") + f"[\n  {rows}\n ]\n}}\n", encoding="utf-8")
    progress(f"wrote {MANIFEST}")


def build(cache: Path, update: bool) -> None:
    """Build both splits and check them against the manifest, or rewrite it with ``update``."""
    collector = collect(read_packages(), cache / "archives")
    hashes = {split: write_split(d, cache / "corpus" / f"{split}.jsonl") for split, d in collector.documents.items()}
    if update or not MANIFEST.exists():
        write_manifest(manifest_of(collector, hashes))
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
