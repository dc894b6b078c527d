"""Downloading models: the one place where Treeline talks to the Hugging Face hub."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from engine.disk import free_space
from engine.errors import TreelineError
from engine.hub import UNWANTED, WANTED

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

SPARE = 64 * 2**20  # bytes of a disk that a download leaves free
_BLOCK = 2**22

Progress = Callable[[str, int, int], None]  # what is done, bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. `sha256` of its content; files that are not in LFS have `blob`, git's hash, alone."""

    name: str
    size: int
    blob: str
    sha256: str | None

    @property
    def etag(self) -> str:
        """The file's name among the cache's blobs."""
        return self.sha256 or self.blob

    def matches(self, path: Path, advance: Callable[[int], None]) -> bool:
        """Say whether `path` holds this file, by size and hash. `advance(n)`: n bytes have been read."""
        if path.stat().st_size != self.size:
            return False
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                advance(len(block))
        return digest.hexdigest() == self.etag


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull does. `present` are in the cache already, by name and size; `missing` bytes are to be fetched."""

    repository: str
    files: tuple[RemoteFile, ...]
    missing: int

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def plan(repository: str) -> Plan:
    """Ask the hub what `repository` holds. Raises TreelineError: unknown, gated, unreachable, no safetensors."""
    from huggingface_hub import HfApi

    with _explained(repository):
        files = _files(repository, HfApi().model_info(repository, files_metadata=True))
    blobs = _blobs(repository)
    missing = sum(file.size - _have(blobs / file.etag) for file in files)
    return Plan(repository, files, missing)


def pull(planned: Plan, progress: Progress) -> Path:
    """Download what is missing, check everything, and return the snapshot's folder.

    Large files that were interrupted go on where they were; damaged ones are fetched again. Raises TreelineError.
    """
    _check_space(planned)
    _silence()
    blobs = _blobs(planned.repository)
    blobs.mkdir(parents=True, exist_ok=True)
    with _explained(planned.repository):
        for file in planned.files:
            _discard_if_damaged(file, blobs / file.etag, progress)
            if file.sha256 and not (blobs / file.etag).exists():
                _fetch(planned.repository, file, blobs / file.etag, progress)
        snapshot = _snapshot(planned.repository)
    for file in planned.files:
        if not file.sha256 and not file.matches(snapshot / file.name, _ignore):
            (blobs / file.etag).unlink(missing_ok=True)
            raise _damaged(file)
    return snapshot


def _files(repository: str, info: ModelInfo) -> tuple[RemoteFile, ...]:
    """Choose the files that are used."""
    siblings = info.siblings or []
    names = [each.rfilename for each in siblings]
    found = tuple(
        RemoteFile(each.rfilename, each.size or 0, each.blob_id or "", each.lfs.sha256 if each.lfs else None)
        for each in siblings
        if _matches(each.rfilename, WANTED) and not _matches(each.rfilename, UNWANTED)
    )
    if not any(file.name.endswith(".safetensors") for file in found):
        others = next((name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf"))), "no weights at all")
        raise TreelineError(f"{repository} has no safetensors, only {others}: Treeline reads nothing else")
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def cache() -> Path:
    """Return the Hugging Face cache (HF_HOME, HF_HUB_CACHE)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def folder(repository: str) -> Path:
    """Return where the cache keeps a repository."""
    return cache() / f"models--{repository.replace('/', '--')}"


def _blobs(repository: str) -> Path:
    return folder(repository) / "blobs"


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.treeline-partial")


def _have(blob: Path) -> int:
    """Return how many bytes of a blob are on disk."""
    return next((path.stat().st_size for path in (blob, _partial(blob)) if path.exists()), 0)


def _check_space(planned: Plan) -> None:
    place, free = free_space(cache())
    if planned.missing and planned.missing + SPARE > free:
        raise TreelineError(
            f"{planned.repository} needs {planned.missing / 1e9:.1f} GB more, {place} has {free / 1e9:.1f} GB free:"
            " make room, or set HF_HOME to a folder on another disk"
        )


def _discard_if_damaged(file: RemoteFile, blob: Path, progress: Progress) -> None:
    if blob.exists() and not file.matches(blob, _Counter(f"checking {file.name}", 0, file.size, progress)):
        blob.unlink()


def _fetch(repository: str, file: RemoteFile, blob: Path, progress: Progress) -> None:
    """Download one large file next to its blob, check it, and put it in its place."""
    from huggingface_hub import file_download, hf_hub_url, utils

    partial = _partial(blob)
    with partial.open("ab") as output:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TreelineError(f"another process is downloading {repository}: wait for it") from None
        if output.tell() > file.size:
            output.truncate(0)
            output.seek(0)
        counted: Any = _Counted(output, _Counter(file.name, output.tell(), file.size, progress))
        library = cast("Any", file_download)
        headers = cast("Any", utils).build_hf_headers()
        url, have = hf_hub_url(repository, file.name), output.tell()
        library.http_get(url, counted, resume_size=have, headers=headers, expected_size=file.size)
    if not file.matches(partial, _Counter(f"checking {file.name}", 0, file.size, progress)):
        partial.unlink()
        raise _damaged(file)
    partial.replace(blob)


def _snapshot(repository: str) -> Path:
    """Fetch the small files and lay everything out as a folder."""
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

    download = cast("Any", snapshot_download)
    return Path(download(repository, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)))


def _silence() -> None:
    """Keep huggingface_hub's bars and notices off the terminal: ours take their place."""
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity_error()


def _damaged(file: RemoteFile) -> TreelineError:
    return TreelineError(f"{file.name} arrived damaged: its hash is not the hub's; it is deleted, pull again")


def _ignore(_: int) -> None:
    pass


class _Counter:
    """Adds up bytes and reports them."""

    def __init__(self, name: str, done: int, total: int, progress: Progress) -> None:
        self._name, self._done, self._total, self._progress = name, done, total, progress

    def __call__(self, count: int) -> None:
        self._done += count
        self._progress(self._name, self._done, self._total)


class _Counted:
    """The part of a file that huggingface_hub writes to, counting what arrives."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance
        self.seek, self.tell = file.seek, file.tell

    def write(self, data: bytes) -> int:
        self._advance(len(data))
        return self._file.write(data)

    def truncate(self) -> int:
        self._advance(-self._file.seek(0, os.SEEK_END))  # the hub sends it from the start: what was here is void
        return self._file.truncate(0)


@contextmanager
def _explained(repository: str) -> Generator[None]:
    """Turn what huggingface_hub raises into one line that says what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    transport: type[Exception] = HfHubHTTPError.__mro__[1]  # of whichever HTTP library it uses
    try:
        yield
    except TreelineError:
        raise
    except OfflineModeIsEnabled:
        raise TreelineError("HF_HUB_OFFLINE forbids downloads: unset it, then pull again") from None
    except HFValidationError:
        raise TreelineError(f"{repository} is no Hugging Face id: those read owner/name") from None
    except HfHubHTTPError as error:
        raise TreelineError(_refusal(repository, error)) from None
    except transport as error:
        reason = str(error) or type(error).__name__
        raise TreelineError(
            f"{constants.ENDPOINT} cannot be reached, or hung up ({reason}): check the network, then pull again"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"the disk is full: what has arrived is kept in {cache()}; make room, then pull again"
        else:
            reason = error.strerror or str(error).splitlines()[0]
            message = f"the download failed: {reason}; pull again to go on from there"
        raise TreelineError(message) from None
    except (ImportError, ValueError) as error:  # of the HTTP library, which reads ALL_PROXY and its like
        raise TreelineError(f"the proxy that the environment names cannot be used: {error}") from None


def _refusal(repository: str, error: Any) -> str:
    """Say what the hub's status means."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    page = f"{constants.ENDPOINT}/{repository}"
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return f"{repository} is gated: accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return f"{repository} is not on the hub, or private: check the name, or log in with `hf auth login`"
    if status in (401, 403):
        return f"the hub refuses your token ({status}) for {page}: log in anew with `hf auth login`, or set HF_TOKEN"
    if status == 404:
        return f"{repository} lacks a file that it lists: it may be changing right now; pull again"
    if status == 429:
        return "the hub has had too many requests from here (429): wait some minutes, then pull again"
    return f"the hub failed with status {status}: what has arrived is kept; pull again later"
