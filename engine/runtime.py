"""Where the daemon of this user and configuration is found. Standard library only: every client needs it at once."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from engine.config import REACHING, EngineConfig, expanded
from engine.errors import TreelineError

_DECISIVE = ("TREELINE_KERNELS", "TREELINE_KERNELS_MARCH")  # in the environment
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107  # bytes of sun_path, less the final NUL


@dataclass(frozen=True, slots=True)
class DaemonFiles:
    """Files of one daemon: `lock` is held for its life, `address` says where it listens and is for its owner's eyes."""

    directory: Path
    name: str

    @property
    def lock(self) -> Path:
        """Locked for as long as the daemon lives."""
        return self.directory / f"{self.name}.lock"

    @property
    def socket(self) -> Path:
        """The Unix socket."""
        return self.directory / f"{self.name}.sock"

    @property
    def address(self) -> Path:
        """JSON: process id, version, model, the loopback port and its token where there is no Unix socket."""
        return self.directory / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """What the daemon did, without any text of the user."""
        return self.directory / f"{self.name}.log"

    def socket_fits(self) -> bool:
        """Say whether this system can name the socket; a loopback port takes its place otherwise."""
        return os.name == "posix" and len(os.fsencode(self.socket)) <= _LONGEST_SOCKET


def daemon_files(config: EngineConfig, environment: Mapping[str, str]) -> DaemonFiles:
    """Return the files of the daemon that serves `config`. Raises TreelineError if there is no place for them."""
    return DaemonFiles(runtime_directory(environment), f"engine-{identity(config, environment)}")


def identity(config: EngineConfig, environment: Mapping[str, str] | None = None) -> str:
    """Return a name for what decides the engine's behaviour: equal settings share a daemon."""
    settings = {key: value for key, value in asdict(absolute(config)).items() if key not in REACHING}
    settings |= {name: value for name, value in (environment or {}).items() if name in _DECISIVE}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def absolute(config: EngineConfig) -> EngineConfig:
    """Return the same configuration for a process in another folder."""
    return replace(config, model=_absolute(config.model), drafter=_absolute(config.drafter))


def _absolute(name: str) -> str:
    path = expanded(name)
    return str(path.resolve()) if path.is_dir() and name not in ("bundled", "auto", "none") else name


def runtime_directory(environment: Mapping[str, str]) -> Path:
    """Return the folder for sockets, locks and logs, made with mode 0700 where it is missing.

    `TREELINE_RUNTIME_DIR`, else `treeline` in `XDG_RUNTIME_DIR`, else one of the user's own in the folder for temporary
    files. Raises TreelineError if it cannot be made or is open to others.
    """
    if named := environment.get("TREELINE_RUNTIME_DIR"):
        directory = Path(named)
    elif base := environment.get("XDG_RUNTIME_DIR"):
        directory = Path(base) / "treeline"
    else:
        directory = Path(tempfile.gettempdir()) / f"treeline-{os.getuid()}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise TreelineError(
            f"the runtime folder {directory} cannot be used: {error.strerror}; set TREELINE_RUNTIME_DIR to a folder of"
            " your own, or go without a daemon: --no-daemon"
        ) from None
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077 or not os.access(directory, os.W_OK):
        raise TreelineError(
            f"the runtime folder {directory} must be yours, writable, and closed to others: chmod 700 it, or set"
            " TREELINE_RUNTIME_DIR"
        )
    return directory


def read_address(files: DaemonFiles) -> dict[str, object]:
    """Read what the daemon wrote about itself; nothing if it has not, or it is not to be trusted."""
    try:
        content: object = json.loads(files.address.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, object]", content) if isinstance(content, dict) else {}
