"""Nothing of a secret, ignored or foreign file is ever shown to the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lsp_server.context import ContextBuilder
from lsp_server.exclusions import Exclusions
from lsp_server.source_text import SourceText
from tests.lsp_server.documents import document, functions, put, shown

CANARY = "canary_4711"


def secrets(root: Path) -> Iterator[Path]:
    """Files that must never be shown, all of them with the canary, each importable by its name."""
    code = f"def assist(a, {CANARY}=1):\n    return '{CANARY}'\n\n{CANARY} = 1\n\n" + functions(CANARY, 3)
    put(root / ".gitignore", "ignored.py\nhidden/\n")
    put(root / ".treelineignore", "mine.py\n")
    yield put(root / ".env", code)
    yield put(root / ".env.py", code)
    yield put(root / "key.pem", code)
    yield put(root / "secrets.py", code)
    yield put(root / "ignored.py", code)
    yield put(root / "hidden/__init__.py", code)
    yield put(root / "mine.py", code)
    yield put(root.parent / "outside" / "outside.py", code)
    yield put(root / "holds_key.py", code + "-----BEGIN RSA PRIVATE KEY-----\n")


def links(root: Path, targets: list[Path]) -> Iterator[Path]:
    for number, target in enumerate(targets):
        if target.name != "holds_key.py":
            link = root / f"link{number}.py"
            link.symlink_to(target)
            yield link
    (root / "linked").symlink_to(root.parent / "outside")
    yield root / "linked" / "outside.py"


def test_no_secret_is_ever_shown(root: Path, builder: ContextBuilder) -> None:
    targets = list(secrets(root))
    paths = [*targets, *links(root, targets)]
    names = [
        "secrets",
        "ignored",
        "hidden",
        "mine",
        "outside",
        "holds_key",
        *(f"link{n}" for n in range(9)),
        "linked.outside",
    ]
    imports = "".join(f"from {name} import assist, {CANARY}\nimport {name} as m_{n}\n" for n, name in enumerate(names))
    imports += "from ..outside.outside import assist\nfrom .secrets import assist\n"
    code = imports + "".join(f"m_{n}.assist()\n" for n in range(len(names)))
    put(root / "fine.py", "def fine(a): ...\n")
    main = document(put(root / "main.py", code + "from fine import fine\n"))
    builder.opened(main)
    builder.refresh(main)
    assert shown(builder.build(main, 0)) == "def fine(a): ...\n"
    empty = document(root / "main.py", "x = 1\n\n")
    builder.edited(empty, 0)
    for path in paths:
        source = document(path)
        builder.opened(source)
        builder.focused(source, 2)
        builder.edited(source, 2)
        builder.saved(source)
        builder.build(empty, 0)
        pasted = SourceText(main.uri, main.path, "python", ["x = 1", *source.lines[:6], ""])
        builder.edited(pasted, 3)
        builder.refresh(pasted)
        assert CANARY not in shown(builder.build(empty, 0)), path
        builder.edited(empty, 0)
        builder.refresh(main)
        assert CANARY not in shown(builder.build(empty, 0)), path
        builder.closed(source.uri)
        assert CANARY not in shown(builder.build(empty, 0)), path


def test_the_same_code_in_a_plain_file_would_be_shown(root: Path, builder: ContextBuilder) -> None:
    list(secrets(root))
    plain = document(put(root / "plain.py", (root / "ignored.py").read_text()))
    main = document(put(root / "main.py", f"from plain import {CANARY}\n"))
    builder.opened(main)
    builder.refresh(main)
    assert CANARY in shown(builder.build(main, 0))
    builder.opened(plain)
    other = document(put(root / "other.py", "x = 1\n"))
    assert CANARY in shown(builder.build(other, 0))


def test_what_becomes_secret_is_withdrawn(root: Path) -> None:
    exclusions = Exclusions([root])
    builder = ContextBuilder(exclusions)
    put(root / "helper.py", "def assist(a): ...\n")
    other = document(put(root / "b.py", functions("b", 5)))
    main = document(put(root / "main.py", "from helper import assist\n"))
    builder.opened(other)
    builder.opened(main)
    builder.refresh(main)
    assert {file.path for file in builder.build(main, 0)} == {"b.py", "helper.py"}
    put(root / ".gitignore", "b.py\nhelper.py\n")
    exclusions.forget()
    assert builder.build(main, 0) == ()
    builder.reconfigure(Exclusions([root], trusted=False))
    assert builder.build(main, 0) == ()


def test_without_trust_only_open_documents_are_shown(root: Path) -> None:
    builder = ContextBuilder(Exclusions([root], trusted=False))
    put(root / "helper.py", "def assist(a): ...\n")
    other = document(put(root / "b.py", "def open_one(a): ...\n\n" + functions("b", 5)))
    main = document(put(root / "main.py", "from helper import assist\nfrom b import open_one\n"))
    builder.opened(main)
    builder.opened(other)
    builder.refresh(main)
    files = builder.build(main, 0)
    assert {file.path for file in files} == {"b.py"}
    assert "def open_one(a): ...\n" in {file.text for file in files}
    builder.closed(other.uri)
    builder.refresh(main)
    assert builder.build(main, 0) == ()
