"""Where the training data comes from, what of it is taken, and what the manifest says."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from training.archives import Package, download, is_permissive, open_archive
from training.common import TrainingError
from training.data import MANIFEST, SPLITS, TOKENIZER, Collector, read_packages, select
from training.source_filter import EXCLUDED, Deduplicator, is_test, language_of, text_allowed

CODE = "def add(left, right):\n    total = left + right\n    return total\n\n\n" * 8


def test_what_may_be_read() -> None:
    assert language_of("pkg/core.py") == "python"
    assert language_of("pkg/src/core.ts") == "typescript"
    assert language_of("pkg/README.md") == "markdown"
    assert language_of("pkg/include/core.h") == "c"
    for path in ("pip/_vendor/core.py", "x/django/core.py", "x/celery.py", "pkg/core.so", "pkg/dist/core.js"):
        assert language_of(path) is None
    for path in ("pkg/core.min.js", "pkg/core.d.ts", "pkg/CHANGELOG.md", "pkg/node_modules/x/y.js"):
        assert language_of(path) is None
    assert language_of("dist/core.py") == "python"  # the package itself may be called so


def test_what_is_a_test() -> None:
    for path in ("a/tests/x.py", "a/test_x.py", "a/src/x.test.ts", "a/__tests__/x.js", "a/x.spec.ts"):
        assert is_test(path)
    assert not is_test("a/attest.py")


def test_what_text_is_worth_reading() -> None:
    assert text_allowed(CODE, "python")
    assert not text_allowed("# Automatically generated, do not edit\n" + CODE, "python")
    assert not text_allowed(CODE + "x = '" + "a" * 400 + "'\n", "python")
    assert text_allowed(CODE + "A sentence of prose, which is long. " * 20 + "\n", "markdown")
    assert not text_allowed('Object.defineProperty(exports, "__esModule", { value: true });\n' + CODE, "javascript")
    for name in EXCLUDED:
        assert not text_allowed(f"from {name} import something\n" + CODE, "python")
        assert not text_allowed(f"# How to\n\n    import {name}\n" + CODE, "markdown")


def test_near_duplicates_are_dropped() -> None:
    seen = Deduplicator()
    assert seen.admit(CODE)
    assert not seen.admit(CODE + "\n# one more line\n")


@pytest.mark.parametrize(
    "license_",
    [
        *("MIT", "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", "MIT OR GPL-3.0-only", "Apache 2.0 License"),
        *("BSD License; MIT License", "(MIT OR CC0-1.0)", "Python Software Foundation License", "ISC License (ISCL)"),
        *("Apache-2.0 WITH LLVM-exception", "Apache Software License"),
    ],
)
def test_permissive_licences(license_: str) -> None:
    assert is_permissive(license_)


@pytest.mark.parametrize(
    "license_",
    [
        *("unknown", "", "GPL-3.0-or-later", "MIT AND MPL-2.0", "GNU Lesser General Public License v3 (LGPLv3)"),
        *("MIT License; GNU General Public License v3 (GPLv3)", "Proprietary", "see LICENSE", "MITLIKE"),
    ],
)
def test_other_licences(license_: str) -> None:
    assert not is_permissive(license_)


def wheel(folder: Path, license_: str = "MIT", name: str = "shop") -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nLicense-Expression: {license_}\n")
        archive.writestr(f"{name}/core.py", CODE)
        archive.writestr(f"{name}/copy.py", CODE + "# the same again\n")
        archive.writestr(f"{name}/native.so", b"\x00")
    return path


def tarball(folder: Path) -> Path:
    path = folder / "owner-kit-2.0.0.tgz"
    files = {
        "package/package.json": json.dumps({"license": "ISC"}),
        "package/src/index.ts": "export function add(a: number, b: number): number {\n  return a + b;\n}\n" * 6,
        "package/dist/index.js": "export function add(a, b) {\n  return a + b;\n}\n" * 9,
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def collector() -> Collector:
    return Collector(Tokenizer.from_file(str(TOKENIZER)))


def test_a_wheel_and_a_tarball(tmp_path: Path) -> None:
    collected = collector()
    for package, path in (
        (Package("shop", "1.0"), wheel(tmp_path)),
        (Package("@owner/kit", "2.0.0", "npm"), tarball(tmp_path)),
    ):
        assert download(package, tmp_path) == path  # it is there: nothing is fetched
        archive = open_archive(package, path)
        collected.add(package, archive.files, archive.license, path)
    assert [d.path for d in collected.documents["train"]] == ["shop/core.py", "@owner/kit/src/index.ts"]
    record = collected.records[1]
    assert (record.license, record.archive, list(record.languages)) == ("ISC", "owner-kit-2.0.0.tgz", ["typescript"])
    row = record.languages["typescript"]
    text = collected.documents["train"][1].text
    tokens = Tokenizer.from_file(str(TOKENIZER)).encode(text).ids
    assert row == {"files": 1, "bytes": len(text), "tokens": len(tokens)}


def test_a_licence_that_asks_for_more_is_refused(tmp_path: Path) -> None:
    archive = open_archive(Package("shop", "1.0"), wheel(tmp_path, "GPL-3.0-only"))
    with pytest.raises(TrainingError, match="shop 1.0 is not permissively licensed: GPL-3.0-only"):
        collector().add(Package("shop", "1.0"), archive.files, archive.license, archive.path)


def test_a_package_gives_no_more_than_its_cap(tmp_path: Path) -> None:
    files = [(f"shop/f{n}.py", CODE.replace("total", f"total{n}").encode()) for n in range(9)]
    chosen = select(Package("shop", "1.0", cap=3 * len(CODE) + 100), iter(files), Deduplicator())
    assert len(chosen) == 3
    tests = [(f"shop/tests/f{n}.py", raw) for n, (_, raw) in enumerate(files)]
    assert len(select(Package("shop", "1.0", cap=13 * (len(CODE) + 30)), iter(tests), Deduplicator())) == 1


def test_the_manifest_names_what_is_pinned_and_nothing_else() -> None:
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    pinned = {(p.name, p.version, p.source, p.split) for p in read_packages()}
    rows = [(r["name"], r["version"], r["source"], r["split"]) for r in manifest["packages"]]
    assert len(rows) == len(set(rows))
    assert {row for row in rows if row[0] != "python-stdlib"} == pinned
    assert all(is_permissive(row["license"]) for row in manifest["packages"])
    assert not {row[0].lower() for row in rows} & set(EXCLUDED)


def test_the_manifests_totals_add_up() -> None:
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    for split in SPLITS:
        rows = [r["languages"] for r in manifest["packages"] if r["split"] == split]
        for language, total in manifest["totals"][split].items():
            parts = [row[language] for row in rows if language in row]
            assert total == {key: sum(part[key] for part in parts) for key in ("files", "bytes", "tokens")}
