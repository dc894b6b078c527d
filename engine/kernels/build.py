"""Compiles the C++ kernels once per machine into the user's cache."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"
COMPILE_SECONDS = 600  # a compiler that takes longer than this is stuck

logger = logging.getLogger(__name__)


class BuildError(Exception):
    """No compiler, or it failed: one line that says which."""


def cache_directory() -> Path:
    """`$TREELINE_CACHE`, else `$XDG_CACHE_HOME/treeline`, else `~/.cache/treeline`."""
    if own := os.environ.get("TREELINE_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "treeline"


def find_compiler() -> str | None:
    """Path of a C++ compiler: `$CXX` if it is set (and nothing else then), c++, g++ or clang++."""
    if chosen := os.environ.get("CXX"):
        return shutil.which(chosen)
    return next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


def flags(march: str) -> list[str]:
    """Compiler options. No contraction: a row's result must not depend on which loop the compiler vectorised."""
    arm = march == "native" and platform.machine() in ("aarch64", "arm64")
    target = "-mcpu=native" if arm else f"-march={march}"  # clang knows no -march=native for Arm
    return ["-std=c++17", "-O2", target, "-ffp-contract=off", "-pthread", "-fPIC", "-shared", "-w"]


def library_path(compiler: str, march: str) -> Path:
    """Where the library for these sources, this compiler and this CPU is kept."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    digest.update(version + " ".join(flags(march)).encode() + _cpu_flags())
    return cache_directory() / "kernels" / f"kernels-{digest.hexdigest()[:24]}.so"


def build(march: str = "native") -> Path:
    """Path of the compiled library, compiling it if the cache has none, or a damaged one.

    Raises BuildError. Processes that ask at the same time wait for one compilation; the file appears atomically.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler found (CXX, c++, g++, clang++)")
    try:
        path = library_path(compiler, march)
        if not _intact(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):
                if not _intact(path):  # otherwise another process built it while we waited
                    _compile(compiler, march, path)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{compiler}: {error}") from error
    return path


def _compile(compiler: str, march: str, path: Path) -> None:
    logger.info("compiling the CPU kernels (once for this machine)")
    handle, name = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        command = [compiler, *flags(march), str(SOURCES / "kernels.cpp"), "-o", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
        if done.returncode == 0:
            _seal(temporary)
            temporary.replace(path)
            return
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
        raise BuildError(f"{compiler} failed: {(lines or ['no message'])[0]}")
    finally:
        temporary.unlink(missing_ok=True)


def _seal(path: Path) -> None:
    """Append a digest, which loaders ignore: mapping a truncated library would kill the process."""
    content = path.read_bytes()
    path.write_bytes(content + hashlib.sha256(content).digest())
    path.chmod(0o755)


def _intact(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    size = hashlib.sha256().digest_size
    return len(content) > size and hashlib.sha256(content[:-size]).digest() == content[-size:]


def _cpu_flags() -> bytes:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line.encode()
    except OSError:
        pass  # not Linux: the processor's name has to do
    return f"{platform.machine()} {platform.processor()}".encode()


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold an exclusive file lock; on systems without `fcntl` two compilations may run, each replacing the file."""
    with path.open("w") as lock:
        try:
            import fcntl
        except ImportError:
            yield
            return
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
