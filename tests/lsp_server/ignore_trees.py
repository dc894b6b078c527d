"""Trees of files with ignore files, drawn by hypothesis and judged by git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

_ATOMS = "a b ab é A a.log *.log * ** *** ? ?? a* *b "
_ATOMS += "[ab] [!a] [^b] [a-c] [[:alpha:]] [[:none:]] []a] [a\\-c] [b- [ \\a \\* a\\"
_NAMES = ("a", "b", "ab", "c", "a.log", "b.log", "é", "A", "*", "b ", "-", "]", "#a", "!b", "\\")

segments = st.lists(st.sampled_from(_ATOMS.split()), min_size=1, max_size=2).map("".join)
patterns = st.builds(
    lambda start, parts, end: start + "/".join(parts) + end,
    st.sampled_from(["", "", "", "!", "!", "/", "!/", "#", "\\"]),
    st.lists(segments, min_size=1, max_size=3),
    st.sampled_from(["", "", "/", " ", "\\ ", "\t", "\r"]),
)
ignore_texts = st.lists(patterns, min_size=1, max_size=5).map(lambda lines: "\n".join(lines) + "\n")
paths = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4).map("/".join)


@dataclass(frozen=True)
class Tree:
    """Files, and the texts of ignore files by the folder that they are in ("" is the top)."""

    files: frozenset[str]
    ignores: dict[str, str]
    exclude: str


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    files: set[str] = set()
    for path in draw(st.lists(paths, min_size=4, max_size=12)):
        folders = {"/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 1)}
        inside = any(other.startswith(path + "/") for other in files)
        if not folders & files and not inside:
            files.add(path)
    folders = sorted({path.rpartition("/")[0] for path in files})
    chosen = draw(st.lists(st.sampled_from(folders), max_size=3, unique=True))
    ignores = {folder: draw(ignore_texts) for folder in {"", *chosen}}
    return Tree(frozenset(files), ignores, draw(st.one_of(st.just(""), ignore_texts)))


def write_tree(tree: Tree, root: Path, name: str = ".gitignore") -> None:
    for path in tree.files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("text\n")
    for folder, text in tree.ignores.items():
        (root / folder / name).write_bytes(text.encode())


def git(root: Path, *arguments: str, stdin: str = "") -> str:
    """Run git with no configuration but the repository's own."""
    environment = {**os.environ, "HOME": str(root / "nobody"), "XDG_CONFIG_HOME": str(root / "nobody")}
    environment |= {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CEILING_DIRECTORIES": str(root.parent),
    }
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, env=environment, input=stdin.encode(), capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.decode()


def git_ignores(root: Path, files: Iterable[str]) -> set[str]:
    """Ask git which of the files it ignores; what the index holds does not count."""
    listed = "\0".join(sorted(files))
    return set(git(root, "check-ignore", "--no-index", "-z", "--stdin", stdin=listed).split("\0")) - {""}
