"""The text that is completed: reading it, and where the cursor is. Lines and columns are 1-based, in characters."""

from __future__ import annotations

import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.errors import TreelineError

_LANGUAGES = {
    ".py": "python",
    ".pyi": "python",
    ".js": "javascript",
    ".jsx": "javascript",
    ".mjs": "javascript",
    ".ts": "typescript",
    ".tsx": "typescript",
    ".c": "c",
    ".h": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".cs": "csharp",
    ".go": "go",
    ".java": "java",
    ".kt": "kotlin",
    ".lua": "lua",
    ".php": "php",
    ".rb": "ruby",
    ".rs": "rust",
    ".sh": "shellscript",
    ".sql": "sql",
    ".swift": "swift",
    ".html": "html",
    ".css": "css",
    ".md": "markdown",
}  # identifiers as in the Language Server Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """A text without its byte order mark; line ends as they are in the file."""

    name: str
    text: str

    @property
    def language(self) -> str:
        """The language that the file's name suggests, or ""."""
        return _LANGUAGES.get(Path(self.name).suffix.lower(), "")

    @property
    def line_end(self) -> str:
        """The line end that most lines have."""
        windows = self.text.count("\r\n")
        return "\r\n" if windows > self.text.count("\n") - windows else "\n"


@dataclass(frozen=True, slots=True)
class Split:
    """The text before and after the cursor; lines end in a line feed alone."""

    prefix: str
    suffix: str


def read_document(path: str, stdin_name: str = "") -> Document:
    """Read a file, or standard input for "-". Raises TreelineError for what is not UTF-8 text."""
    name = "standard input" if path == "-" else path
    raw = sys.stdin.buffer.read() if path == "-" else _read_bytes(Path(path))
    nul = raw.find(b"\0")
    if nul >= 0:
        raise TreelineError(f"{name} is not text (a NUL byte at offset {nul}): give a UTF-8 text file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # the decoder counts from behind a byte order mark
        offset = error.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)
        raise TreelineError(
            f"{name} is not UTF-8 (byte {raw[offset]:#04x} at offset {offset}): save it as UTF-8"
        ) from None
    return Document(stdin_name if path == "-" else path, text)


def _read_bytes(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise TreelineError(f"{path} is a directory: give a file")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise TreelineError(f"{path} is neither a file nor a pipe: give a file")
        return path.read_bytes()
    except FileNotFoundError:
        raise TreelineError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise TreelineError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise TreelineError(f"cannot read {str(path)!r}: {error}") from None


def split_at_offset(document: Document, offset: int) -> Split:
    """Split at a number of characters from the start (0 to the length). Raises TreelineError."""
    text = document.text
    if not 0 <= offset <= len(text):
        raise TreelineError(f"--cursor is {offset}: {_title(document)} has offsets 0 to {len(text)}")
    prefix, suffix = text[:offset], text[offset:]
    if prefix.endswith("\r") and suffix.startswith("\n"):  # never inside a line end
        prefix, suffix = prefix[:-1], "\r" + suffix
    return Split(_unix(prefix), _unix(suffix))


def split_at_line(document: Document, line: int | None, column: int | None) -> Split:
    """Split at a line and column; a column of line length + 1, or none, is the line's end. Raises TreelineError.

    No line is the end of the text.
    """
    text = _unix(document.text)
    if line is None:
        return Split(text, "")
    lines = text.split("\n")
    if not 1 <= line <= len(lines):
        raise TreelineError(f"--line is {line}: {_title(document)} has lines 1 to {len(lines)}")
    length = len(lines[line - 1])
    if column is None:
        column = length + 1
    if not 1 <= column <= length + 1:
        raise TreelineError(f"--column is {column}: line {line} of {_title(document)} has columns 1 to {length + 1}")
    offset = sum(len(text) + 1 for text in lines[: line - 1]) + column - 1
    return Split(text[:offset], text[offset:])


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _title(document: Document) -> str:
    return document.name or "standard input"
