"""Changes the user's configuration file, and leaves in it what it does not change: comments, order, other settings."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

from engine.config import read_config
from engine.errors import TreelineError

_LINE = re.compile(r"^[ \t]*(\"model\"|'model'|model)[ \t]*=.*$", re.MULTILINE)


def set_model(path: Path, name: str) -> None:
    """Make `name` the model of the configuration at `path`, which need not exist. Raises TreelineError."""
    real = path.expanduser().resolve()  # a link into somebody's collection of settings stays one
    if real.exists():
        read_config(real)  # what is broken is reported, not mended
    text = real.read_text(encoding="utf-8-sig") if real.exists() else ""
    line = f"model = {json.dumps(name)}"  # a TOML string of such a name is a JSON string
    text, found = _LINE.subn(lambda _: line, text, count=1)
    if not found:
        text = f"{line}\n{text}"
    _replace(real, text if text.endswith("\n") else f"{text}\n")
    if read_config(real).get("model") != name:
        raise TreelineError(f'{path} could not be changed in place: write model = "{name}" into it by hand')


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
