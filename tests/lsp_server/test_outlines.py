"""What files define and import, as the model is shown it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.outline import Import
from lsp_server.python_outline import python_imports, python_outline
from lsp_server.script_outline import script_imports, script_outline

PYTHON = '''"""A shop."""
from __future__ import annotations
import dataclasses

LIMIT = 3
TABLE = {"key": [1, 2, 3], "another key": [4, 5, 6], "a third key": [7, 8, 9], "more": []}

@dataclasses.dataclass(frozen=True)
class Item(Base, metaclass=Meta):
    """One thing.

    More about it.
    """

    name: str
    price: int = 0
    _secret = 1

    def __init__(self, name: str): ...

    def cost(self, count: int = 1, *, tax: float = 0.2) -> float:
        """Not shown."""
        return self.price * count

    async def fetch(self):
        pass

    def _private(self): ...

async def load(
    path: str,
    *more: int,
) -> list[Item]:
    """Load the things at `path`."""
    body = 1
    return []

if True:
    def guarded(x): return x
'''

ITEM = '''@dataclasses.dataclass(frozen=True)
class Item(Base, metaclass=Meta):
    """One thing."""
    name: str
    price: int = 0
    _secret = 1
    def __init__(self, name: str): ...
    def cost(self, count: int=1, *, tax: float=0.2) -> float: ...
    async def fetch(self): ...
'''
LOAD = '''async def load(path: str, *more: int) -> list[Item]:
    """Load the things at `path`."""
    ...
'''

SCRIPT = """import type { A } from './a';
export { z } from './z';

export async function load(path: string, options: { deep: boolean } = {}): Promise<Item[]> {
  return [];
}

export default class Shop extends Base {
  private key = 1;
  name: string;

  constructor(name: string) {
    super();
    if (name) {
      this.name = name;
    }
  }

  async sell(count: number): Promise<void> {
    for (const x of y) {
    }
  }
}

export interface Item {
  name: string;
  price?: number;
}

export type Kind =
  | 'a'
  | 'b';

export const total = (items: Item[]): number => {
  return 0;
};

export const LIMIT = 3;

function helper(a) { return a; }
"""


def test_python_definitions() -> None:
    definitions = python_outline(PYTHON).definitions
    assert list(definitions) == ["LIMIT", "TABLE", "Item", "load", "guarded"]
    assert definitions["Item"] == ITEM
    assert definitions["load"] == LOAD
    assert definitions["guarded"] == "def guarded(x): ...\n"
    assert definitions["LIMIT"] == "LIMIT = 3\n"
    assert definitions["TABLE"] == "TABLE = ...\n"


def test_every_python_definition_is_python() -> None:
    for path in Path("engine").glob("*.py"):
        for text in python_outline(path.read_text()).definitions.values():
            if len(text.splitlines()) < 40 and len(text) < 1400:
                ast.parse(text)


def test_python_that_is_being_written() -> None:
    definitions = python_outline(PYTHON + "\ndef broken(:\n    x = (\n").definitions
    assert definitions["load"] == "async def load(\n    path: str,\n    *more: int,\n) -> list[Item]: ...\n"
    assert definitions["Item"].startswith("class Item(Base, metaclass=Meta):\n    def __init__")
    assert "    def cost(self, count: int = 1, *, tax: float = 0.2) -> float: ...\n" in definitions["Item"]
    assert "_private" not in definitions["Item"]
    assert "load" not in definitions["Item"]
    assert definitions["LIMIT"] == "LIMIT = 3\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from a.b import c", [Import("a.b", (("c", "c"),))]),
        ("from a import b as c, d", [Import("a", (("b", "c"), ("d", "d")))]),
        (
            "    from .a import (\n    b,  # why\n    c as d,\n    )\nx = 1",
            [Import("a", (("b", "b"), ("c", "d")), level=1)],
        ),
        ("from .. import a", [Import("", (("a", "a"),), level=2)]),
        ("from a import *", [Import("a", (("*", "*"),))]),
        ("from a import b, \\\n    c", [Import("a", (("b", "b"), ("c", "c")))]),
        ("import a.b as c, d", [Import("a.b", alias="c"), Import("d", alias="d")]),
        ("import a.b", [Import("a.b", alias="a.b")]),
        ("import a; x = 1", [Import("a", alias="a")]),
        ("from a import (b,\nimport c", [Import("a", (("b", "b"),)), Import("c", alias="c")]),
        ("from a import", []),
        ("from  import b", []),
        ("importlib = 1\nfromage = 2", []),
    ],
)
def test_python_imports(code: str, expected: list[Import]) -> None:
    assert list(python_imports(code.split("\n"))) == expected


def test_script_definitions() -> None:
    outline = script_outline(SCRIPT)
    definitions = outline.definitions
    assert definitions["load"] == (
        "export async function load(path: string, options: { deep: boolean } = {}): Promise<Item[]>;\n"
    )
    assert definitions["Shop"] == definitions["default"]
    assert definitions["Shop"] == (
        "export default class Shop extends Base {\n  name: string;\n  constructor(name: string);\n"
        "  async sell(count: number): Promise<void>;\n}\n"
    )
    assert definitions["Item"] == "export interface Item {\n  name: string;\n  price?: number;\n}\n"
    assert definitions["Kind"] == "export type Kind =\n  | 'a'\n  | 'b';\n"
    assert definitions["total"] == "export const total = (items: Item[]): number => ...;\n"
    assert definitions["LIMIT"] == "export const LIMIT = 3;\n"
    assert definitions["helper"] == "function helper(a);\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import { a, b as c } from './m';", [Import("./m", (("a", "a"), ("b", "c")))]),
        ("import d from '../m'", [Import("../m", (("default", "d"),))]),
        ('import d, { a } from "./m";', [Import("./m", (("default", "d"), ("a", "a")))]),
        ("import * as n from './m';", [Import("./m", alias="n")]),
        ("import {\n  a,\n  type B,\n} from './m';", [Import("./m", (("a", "a"), ("B", "B")))]),
        ("const { a, b: c } = require('./m');", [Import("./m", (("a", "a"), ("b", "c")))]),
        ("const n = require('./m')", [Import("./m", alias="n")]),
        ("export * from './m';", [Import("./m", (("*", "*"),))]),
        ("import { a } from 'package';\nimport './style';", []),
    ],
)
def test_script_imports(code: str, expected: list[Import]) -> None:
    assert list(script_imports(code)) == expected


@given(st.text(alphabet="\n\n  .,;:()[]{}<>=*'\"`@#\\/abimportfromclassdefexportconst", max_size=300))
def test_no_text_breaks_the_outlines(text: str) -> None:
    for outline in (python_outline(text), script_outline(text)):
        assert all(definition.endswith("\n") for definition in outline.definitions.values() if definition)
