"""Ignore patterns mean what git says they mean."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings

from lsp_server.exclusions import Exclusions
from lsp_server.gitignore import parse_ignore_file
from tests.lsp_server.ignore_trees import Tree, git, git_ignores, trees, write_tree


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No ignore file of the user who runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))


@given(trees())
@settings(max_examples=60)
@example(Tree(frozenset({"foo/a.log", "foobar", "fooa/b/bar"}), {"": "*.log\n!foo/\n/foo**/bar\n"}, ""))
@example(Tree(frozenset({"a/b", "a/c"}), {"": "a/*\n!a/b\n", "a": "c\n"}, "!c\n"))
@example(Tree(frozenset({"a/b/c", "a/d"}), {"": "a\n!a/b/c\n!a/\n", "a": "!d\n"}, ""))
def test_git_agrees_about_every_file(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        git(root, "init", "-q")
        write_tree(tree, root)
        (root / ".git/info/exclude").write_bytes(tree.exclude.encode())
        exclusions = Exclusions([root], ignore_case=False)
        ours = {path for path in tree.files if exclusions.reason(root / path, "") == "ignored by .gitignore"}
        assert ours == git_ignores(root, tree.files)


@given(trees())
@settings(max_examples=20)
def test_a_treelineignore_has_the_same_syntax(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        git(root, "init", "-q")
        write_tree(tree, root, ".treelineignore")
        exclusions = Exclusions([root], ignore_case=False)
        ours = {path for path in tree.files if exclusions.reason(root / path, "") == "ignored by .treelineignore"}
        assert not git_ignores(root, tree.files)
        for path in root.rglob(".treelineignore"):
            path.rename(path.with_name(".gitignore"))
        assert ours == git_ignores(root, tree.files)


@given(trees())
@settings(max_examples=20)
def test_a_workspace_folder_below_the_repository_changes_nothing(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        git(root, "init", "-q")
        write_tree(tree, root)
        ignored = git_ignores(root, tree.files)
        for folder in {(root / path).parent for path in tree.files}:
            exclusions = Exclusions([folder], ignore_case=False)
            for path in (path for path in tree.files if (root / path).is_relative_to(folder)):
                assert (exclusions.reason(root / path, "") is not None) == (path in ignored), path


def test_case_counts_unless_told() -> None:
    data = b"Build/\n*.LOG\n"
    assert parse_ignore_file(data).verdict("a.log", False) is None
    assert parse_ignore_file(data, ignore_case=True).verdict("a.log", False) is True
    assert parse_ignore_file(data, ignore_case=True).verdict("build", True) is True
    assert parse_ignore_file(data, ignore_case=True).verdict("build", False) is None


def test_what_is_no_text_is_no_error() -> None:
    rules = parse_ignore_file(b"\xef\xbb\xbf\xff\xfe*\0\n\n/\n!\n!/\n\\\nb\xff?\n")
    assert rules.verdict("anything", False) is None
    assert parse_ignore_file(b"\xef\xbb\xbfa\n").verdict("a", False) is True
