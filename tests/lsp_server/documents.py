"""Documents for the tests of what of a workspace is shown."""

from __future__ import annotations

from pathlib import Path

from engine.request import ContextFile
from lsp_server.source_text import SourceText

_LANGUAGES = {".py": "python", ".ts": "typescript", ".js": "javascript", ".tsx": "typescriptreact", ".rs": "rust"}


def document(path: Path, text: str | None = None) -> SourceText:
    """An open document; by default what is on disk."""
    content = path.read_text() if text is None else text
    return SourceText(path.as_uri(), path, _LANGUAGES.get(path.suffix, "plaintext"), content.split("\n"))


def put(path: Path, text: str = "text\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def functions(prefix: str, count: int) -> str:
    """Some code of four lines a function, all lines different from those of another prefix."""
    blocks = (
        f"def {prefix}_{n}(value_{prefix}):\n"
        f"    {prefix}_total = value_{prefix} * {n}\n    return {prefix}_total + {n}\n"
        for n in range(count)
    )
    return "\n".join(blocks)


def shown(files: tuple[ContextFile, ...]) -> str:
    """All text of a context."""
    return "".join(file.text for file in files)
