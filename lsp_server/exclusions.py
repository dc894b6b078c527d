"""What Treeline never looks at: secret, ignored and foreign files.

Three questions with three answers: may this document be completed in, may it be shown to the model while another one is
completed in, and may a file be read from disk. Everything that is read goes through `Exclusions.read`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from urllib.parse import unquote, urlsplit

from lsp_server.ignore_files import IgnoreFiles, IgnoreVerdict
from lsp_server.secret_files import holds_private_key, is_secret_name

SECRET = "secret file"
SECRET_TEXT = "holds a private key"
OUTSIDE = "outside the workspace folders"
UNTRUSTED = "the workspace is not trusted"
NOT_A_FILE = "no such file"
TOO_BIG = "file too big"
BINARY = "binary file"

MOST_BYTES = 1 << 20  # of a file that is read from disk
MOST_OPEN_CHARACTERS = 4 << 20  # of an open document
_RECHECK_SECONDS = 1.0
_MOST_VERDICTS = 4096
# Documents that nobody types code into: output panels, old versions shown by a diff, settings of the editor.
_NOT_EDITED = frozenset(
    "output debug git gitfs review comment search-editor walkthrough vscode-scm vscode-settings vscode-userdata".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is known of one path: why it is excluded, whether it lies outside the folders, and what that rests on."""

    reason: str | None
    outside: bool
    real: Path
    ignored: IgnoreVerdict | None
    checked: float


class Exclusions:
    """The rules for one workspace; its answers are one short line, or None where there is no objection.

    `folders`: absolute paths of the workspace folders that are on disk. `trusted`: without it no file is read.
    An answer is kept for a second without looking at the disk, then as long as the ignore files it rests on are
    unchanged; `forget` has everything looked at again. `clock` is for tests.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        trusted: bool = True,
        *,
        ignore_case: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folders = tuple(Path(os.path.abspath(folder)) for folder in folders)  # noqa: PTH100 - resolve() follows links
        self.trusted = trusted
        self._real_folders = tuple(Path(os.path.realpath(folder)) for folder in self.folders)
        self._ignores = IgnoreFiles((*self.folders, *self._real_folders), ignore_case)
        self._clock = clock
        self._verdicts: dict[Path, _Verdict] = {}

    def reason(self, path: Path | None, uri: str) -> str | None:
        """Say why neither a completion in this document is offered nor anything of it shown to the model."""
        reason = _uri_reason(uri)
        return self._verdict(path).reason if reason is None and path is not None else reason

    def may_complete(self, path: Path | None, uri: str, text: str = "") -> str | None:
        """Say why no completion is offered in an open document. Files outside the folders are completed in, too."""
        return self.reason(path, uri) or text_reason(text)

    def may_show(self, path: Path | None, uri: str, text: str = "") -> str | None:
        """Say why an open document is not shown to the model while another one is completed in."""
        reason = self.may_complete(path, uri, text)
        if reason is None and path is not None and self.folders and self._verdict(path).outside:
            return OUTSIDE
        return reason

    def may_read(self, path: Path) -> str | None:
        """Say why a file is not read from disk, looking at the disk anew."""
        return self._refusal(path)[0]

    def read(self, path: Path, most_bytes: int = MOST_BYTES) -> str | None:
        """Return a file's text if every rule allows it; None otherwise, also where the disk fails.

        What is opened is the file that the rules were asked about: a link put in its place meanwhile is not followed.
        """
        reason, real = self._refusal(path)
        if reason is not None:
            return None
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            with open(os.open(real, flags), "rb") as file:  # noqa: PTH123 - a descriptor
                if not S_ISREG(os.fstat(file.fileno()).st_mode):
                    return None
                data = file.read(most_bytes + 1)
        except OSError:
            return None
        text = data.decode("utf-8", errors="replace")
        return None if len(data) > most_bytes or text_reason(text) else text

    def forget(self) -> None:
        """Drop what is known, e.g. when an ignore file was saved or the watched files changed."""
        self._verdicts.clear()

    def label(self, path: Path | None, uri: str) -> str:
        """Return a document's path in its workspace folder, with forward slashes; elsewhere its name alone."""
        if path is not None:
            for folder in self.folders:
                if path.is_relative_to(folder):
                    return path.relative_to(folder).as_posix()
            return path.name
        return next(iter(_uri_parts(uri)[1][-1:]), "")

    def _refusal(self, path: Path) -> tuple[str | None, Path]:
        """Return why a file is not read, and which file it really is."""
        if not self.trusted:
            return UNTRUSTED, path
        verdict = self._verdict(path, fresh=True)
        if verdict.reason is not None or verdict.outside:
            return verdict.reason or OUTSIDE, path
        try:
            found = verdict.real.stat()
        except (OSError, ValueError):
            return NOT_A_FILE, path
        if not S_ISREG(found.st_mode):
            return NOT_A_FILE, path
        return TOO_BIG if found.st_size > MOST_BYTES else None, verdict.real

    def _verdict(self, path: Path, fresh: bool = False) -> _Verdict:
        known = self._verdicts.get(path)
        now = self._clock()
        if known is not None:
            if not fresh and now - known.checked < _RECHECK_SECONDS:
                return known
            if self._still_holds(path, known):
                known = replace(known, checked=now)
                self._verdicts[path] = known
                return known
        if len(self._verdicts) >= _MOST_VERDICTS:
            self._verdicts.clear()
        verdict = self._judge(path, now)
        self._verdicts[path] = verdict
        return verdict

    def _still_holds(self, path: Path, known: _Verdict) -> bool:
        if _real(path) != known.real:
            return False
        return known.ignored is None or self._ignores.still_holds(known.ignored)

    def _judge(self, path: Path, now: float) -> _Verdict:
        """Look at a path as it is spelled and, behind all links, as what it is."""
        plain, real = Path(os.path.abspath(path)), _real(path)  # noqa: PTH100 - resolve() follows links
        outside = not any(real.is_relative_to(folder) for folder in self._real_folders)
        if is_secret_name(plain.parts) or is_secret_name(real.parts):
            return _Verdict(SECRET, outside, real, None, now)
        verdict = self._ignores.verdict(plain)
        if verdict.by is None and real != plain:
            further = self._ignores.verdict(real)
            verdict = IgnoreVerdict(further.by, (*verdict.consulted, *further.consulted))
        reason = None if verdict.by is None else f"ignored by {verdict.by}"
        return _Verdict(reason, outside, real, verdict, now)


def text_reason(text: str) -> str | None:
    """Say why a text is left alone whatever its file is called."""
    if "\0" in text:
        return BINARY
    if len(text) > MOST_OPEN_CHARACTERS:
        return TOO_BIG
    return SECRET_TEXT if holds_private_key(text) else None


@lru_cache(maxsize=_MOST_VERDICTS)
def _uri_reason(uri: str) -> str | None:
    scheme, parts = _uri_parts(uri)
    if scheme in _NOT_EDITED:
        return f"not a file that is edited ({scheme}:)"
    return SECRET if is_secret_name(parts) else None


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return path


def _uri_parts(uri: str) -> tuple[str, list[str]]:
    """Return a URI's scheme and the parts of its path."""
    try:
        split = urlsplit(uri)
    except ValueError:
        return "", []
    return split.scheme, [unquote(part) for part in split.path.split("/") if part]
