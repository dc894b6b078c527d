"""Definitions of imported names are found in the workspace, read once, and shown as signatures."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.request import ContextFile
from lsp_server import definitions
from lsp_server.context import ContextBuilder
from lsp_server.definitions import DefinitionFinder
from lsp_server.exclusions import Exclusions
from tests.lsp_server.documents import document, put, shown


def test_definitions_of_imported_names(root: Path, builder: ContextBuilder) -> None:
    put(root / "src/shop/__init__.py", "from .things import Item as Thing\nfrom shop.deep import *\n")
    put(
        root / "src/shop/things.py",
        'class Item:\n    """One."""\n\n    def cost(self, n: int) -> float:\n        return n * 2.0\n',
    )
    put(root / "src/shop/deep.py", "def dive(depth):\n    return depth\n\ndef unused():\n    pass\n")
    put(root / "src/shop/util.py", "def tidy(x):\n    return x\n\ndef other():\n    pass\n\nLIMIT = 3\n")
    put(root / "tools/local.py", "def beside(): pass\n")
    code = (
        "import os, json\nfrom shop import Thing, dive, util as u, missing\nimport shop.util as tools\n"
        "from .sibling import brother\nimport local\nx = u.tidy(tools.LIMIT) + local.beside() + os.path\n"
    )
    put(root / "tools/sibling.py", "async def brother(a, *, b=1): ...\n")
    main = document(put(root / "tools/main.py", code))
    builder.opened(main)
    builder.refresh(main)
    assert builder.build(main, 5) == (
        ContextFile("src/shop/things.py", 'class Item:\n    """One."""\n    def cost(self, n: int) -> float: ...\n'),
        ContextFile("src/shop/deep.py", "def dive(depth): ...\n"),
        ContextFile("src/shop/util.py", "def tidy(x): ...\nLIMIT = 3\n"),
        ContextFile("tools/sibling.py", "async def brother(a, *, b=1): ...\n"),
        ContextFile("tools/local.py", "def beside(): ...\n"),
    )


def test_definitions_of_script_modules(root: Path, builder: ContextBuilder) -> None:
    put(root / "lib/index.ts", "export * from './math.js';\nexport { default as Shop } from './shop';\n")
    put(root / "lib/math.ts", "export function add(a: number, b: number): number {\n  return a + b;\n}\n")
    put(root / "lib/shop.tsx", "export default class Shop {\n  sell(n: number): void {\n  }\n}\n")
    put(root / "util.js", "export const tidy = (x) => x;\nexport const other = 1;\n")
    code = "import { add, Shop } from '../lib';\nimport * as util from '../util';\nimport x from 'react';\n"
    code += "util.tidy(add(1, 2));\n"
    main = document(put(root / "app/main.ts", code))
    builder.opened(main)
    builder.refresh(main)
    assert builder.build(main, 3) == (
        ContextFile("lib/math.ts", "export function add(a: number, b: number): number;\n"),
        ContextFile("lib/shop.tsx", "export default class Shop {\n  sell(n: number): void;\n}\n"),
        ContextFile("util.js", "export const tidy = (x) => ...;\n"),
    )


def test_an_open_document_counts_as_it_is_not_as_it_was_saved(root: Path, builder: ContextBuilder) -> None:
    path = put(root / "helper.py", "def old(a): ...\n")
    main = document(put(root / "main.py", "from helper import old, new\n"))
    builder.opened(main)
    builder.refresh(main)
    assert "def old(a): ..." in shown(builder.build(main, 0))
    builder.opened(document(path, "def new(b): ...\nx = (\n"))
    builder.refresh(main)
    text = shown(builder.build(main, 0))
    assert "def new(b)" in text
    assert "old" not in text


def test_a_file_is_parsed_again_only_when_it_changed(
    root: Path, builder: ContextBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(root / "helper.py", "def assist(a): ...\n")
    main = document(put(root / "main.py", "from helper import assist\n"))
    parsed: list[str] = []
    original = definitions.python_outline
    monkeypatch.setattr(definitions, "python_outline", lambda text: parsed.append(text) or original(text))
    builder.opened(main)
    for _ in range(5):
        builder.refresh(main)
    assert len(parsed) == 1
    path.write_text("def assist(a, b): ...\n")
    builder.refresh(main)
    assert "def assist(a, b): ..." in shown(builder.build(main, 0))
    assert len(parsed) == 2


def test_big_files_and_many_files_are_not_read(root: Path, builder: ContextBuilder) -> None:
    put(root / "big.py", "def huge(): ...\n" + "#" * 300_000)
    for number in range(60):
        put(root / f"m{number}.py", f"def f{number}(): ...\n")
    imports = "".join(f"from m{number} import f{number}\n" for number in range(60))
    main = document(put(root / "main.py", "from big import huge\n" + imports))
    read: list[Path] = []
    original = Exclusions.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Exclusions, "read", lambda self, path, most: read.append(path) or original(self, path, most))
        builder.opened(main)
        builder.refresh(main)
    assert len(read) == 32
    text = shown(builder.build(main, 0))
    assert "huge" not in text
    assert "def f3(): ..." in text


def test_an_excluded_document_is_not_even_outlined(root: Path) -> None:
    finder = DefinitionFinder(Exclusions([root]))
    main = document(put(root / "main.py", "from ignored import assist\nfrom holds_key import assist as second\n"))
    ignored = document(put(root / "ignored.py", "def assist(a): ...\n"))
    key = document(root / "holds_key.py", "def assist(a): ...\n-----BEGIN PRIVATE KEY-----\n")
    put(root / "holds_key.py")
    documents = {other.path: other for other in (ignored, key) if other.path}
    assert [each.path.name for each in finder.find(main, documents)] == ["ignored.py"]
    put(root / ".gitignore", "ignored.py\n")
    assert DefinitionFinder(Exclusions([root])).find(main, documents) == ()
