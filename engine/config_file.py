"""Changes the user's configuration file, and leaves in it what it does not change: comments, order, other settings."""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from pathlib import Path

from engine.config import encodable, expanded, read_config
from engine.errors import TreelineError

_LINE = re.compile(r"^[ \t]*(\"model\"|'model'|model)[ \t]*=.*$", re.MULTILINE)


def set_model(path: Path, name: str) -> None:
    """Make `name` the model of the configuration at `path`, which need not exist. Raises TreelineError."""
    real = expanded(path).resolve()  # a link into somebody's collection of settings stays one
    if real.exists():
        read_config(real)  # what is broken is reported, not mended
    text = real.read_text(encoding="utf-8-sig") if real.exists() else ""
    line = f"model = {_quoted(name)}"
    text, found = _LINE.subn(lambda _: line, text, count=1)
    if not found:
        text = f"{line}\n{text}"
    try:
        understood = tomllib.loads(text).get("model") == name
    except tomllib.TOMLDecodeError:
        understood = False
    if not understood:
        raise TreelineError(f'{path} cannot be changed in place: write model = "{name}" into it by hand')
    _replace(real, text if text.endswith("\n") else f"{text}\n")


def _quoted(name: str) -> str:
    """Return `name` as a TOML string: one of JSON, in which characters stand for themselves."""
    if not encodable(name):
        raise TreelineError(f"the name {name!r} is not UTF-8, which a configuration has to be: rename it")
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


def _replace(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(mode)
        os.replace(temporary, path)  # noqa: PTH105 - says what is meant
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise TreelineError(f"cannot write the configuration {path}: {error.strerror}") from None
