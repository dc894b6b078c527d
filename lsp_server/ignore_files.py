"""Which ignore files of a disk apply to a path, and what they say; each is read once and again when it has changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from stat import S_ISREG

from lsp_server.gitignore import IgnoreFile, parse_ignore_file

GITIGNORE, TREELINEIGNORE = ".gitignore", ".treelineignore"
_MOST_BYTES = 16 << 20
_MOST_FILES = 4096
_NOTHING = IgnoreFile(())

Stamp = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class IgnoreVerdict:
    """The name of the ignore file that excludes a path (None: none does), and the files that were looked for.

    As long as every one of `consulted` has the same stamp, the verdict holds.
    """

    by: str | None
    consulted: tuple[tuple[str, Stamp], ...]


def _look(path: str) -> Stamp:
    """Return what changes when a file is written; None if it is not there. Of `.git` only that it is there counts."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a str, on the way of every verdict
    except (OSError, ValueError):
        return None
    if path.endswith(".git"):
        return 0, 0, 0
    return (found.st_mtime_ns, found.st_size, found.st_ino) if S_ISREG(found.st_mode) else None


class IgnoreFiles:
    """Answers for paths below `folders`, and for other files by the repository that they are in.

    `ignore_case`: as git's core.ignoreCase; by default on where file systems usually do.
    """

    def __init__(self, folders: Sequence[Path], ignore_case: bool | None = None) -> None:
        self._folders = tuple(folders)
        self._ignore_case = sys.platform in ("win32", "darwin") if ignore_case is None else ignore_case
        self._parsed: dict[str, tuple[Stamp, IgnoreFile]] = {}

    def verdict(self, path: Path) -> IgnoreVerdict:
        """Look at all ignore files that apply to an absolute path without `..`, from the top down."""
        consulted: dict[str, Stamp] = {}
        tops = self._tops(path, consulted)
        by = None
        for top in tops:
            by = by or self._levels(path, top, GITIGNORE, self._repository_rules(top, consulted), consulted)
        if tops:
            by = by or self._levels(path, tops[-1], TREELINEIGNORE, (), consulted)
        return IgnoreVerdict(by, tuple(consulted.items()))

    def _tops(self, path: Path, consulted: dict[str, Stamp]) -> list[Path]:
        """Return the folders where rules for `path` may begin, the nearest first.

        These are the repository around it; the workspace folder that it is in; and, where a repository lies inside a
        workspace folder or a folder inside a repository, each one further out up to the folder's own repository.
        """
        holding = [folder for folder in self._folders if path.is_relative_to(folder)]
        outermost = min(holding, key=lambda folder: len(folder.parts), default=None)
        tops: list[Path] = []
        for parent in path.parents:
            git = str(parent / ".git")
            consulted[git] = _look(git)
            is_repository = consulted[git] is not None
            if is_repository or parent == outermost:
                tops.append(parent)
            if is_repository and (outermost is None or outermost.is_relative_to(parent)):
                break
        return tops

    def still_holds(self, verdict: IgnoreVerdict) -> bool:
        """Say whether no file that a verdict came from has changed, appeared or gone."""
        return all(_look(path) == seen for path, seen in verdict.consulted)

    def _levels(
        self, path: Path, top: Path, name: str, last: Sequence[IgnoreFile], consulted: dict[str, Stamp]
    ) -> str | None:
        """Ask for each directory from `top` down to `path`; the deepest file that names it decides, `last` at the end.

        Returns `name` if the path or a directory on the way is ignored.
        """
        parts = path.relative_to(top).parts
        levels: list[IgnoreFile] = []
        folder = top
        for depth, part in enumerate(parts):
            levels.append(self._read(str(folder / name), consulted))
            folder /= part
            is_directory = depth + 1 < len(parts)
            found = (
                ignore.verdict("/".join(parts[start : depth + 1]), is_directory)
                for start, ignore in reversed(list(enumerate(levels)))
            )
            whole = "/".join(parts[: depth + 1])
            further = (ignore.verdict(whole, is_directory) for ignore in last)
            if next((each for each in chain(found, further) if each is not None), False):
                return name
        return None

    def _repository_rules(self, top: Path, consulted: dict[str, Stamp]) -> tuple[IgnoreFile, ...]:
        """Return the repository's `info/exclude` and the user's own ignore file, in the order of their precedence."""
        if consulted.get(str(top / ".git")) is None:
            return ()
        exclude = str(_common_directory(top / ".git") / "info" / "exclude")
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
        return self._read(exclude, consulted), self._read(str(home / "git" / "ignore"), consulted)

    def _read(self, path: str, consulted: dict[str, Stamp]) -> IgnoreFile:
        if path not in consulted:
            consulted[path] = _look(path)
        seen = consulted[path]
        if seen is None:
            return _NOTHING
        known = self._parsed.get(path)
        if known is not None and known[0] == seen:
            return known[1]
        if len(self._parsed) >= _MOST_FILES:
            self._parsed.clear()
        parsed = parse_ignore_file(_content(path), self._ignore_case)
        self._parsed[path] = (seen, parsed)
        return parsed


def _common_directory(git: Path) -> Path:
    """Return the folder that a repository shares with its worktrees; `.git` itself in the usual case."""
    if git.is_dir():
        return git
    for line in _first_lines(git):
        directory = git.parent / line.removeprefix("gitdir:").strip()
        common = next(_first_lines(directory / "commondir"), "")
        return directory / common
    return git


def _first_lines(path: Path) -> Iterator[str]:
    yield from os.fsdecode(_content(str(path))).split("\n")[:1]


def _content(path: str) -> bytes:
    """Return the bytes of a small file. One that cannot be read ignores nothing, as in git."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a str, as above
            return file.read(_MOST_BYTES)
    except OSError:
        return b""
