"""Compiling and caching the kernels: every way in which it can go wrong ends in a working engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.kernels import build, native

ROOT = Path(__file__).parents[2]
needs_native = pytest.mark.skipif(not native.available(), reason="no C++ compiler or CPU without AVX2")

PRODUCT = """
import torch
from engine.kernels.cpu import PackedLinear, backend
torch.manual_seed(0)
print(backend(), PackedLinear.from_dense(torch.randn(16, 32))(torch.randn(2, 32)).sum().item())
"""


def start(cache: Path, code: str = PRODUCT, **environment: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TREELINE_", "CXX"))}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**clean, "TREELINE_CACHE": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture
def warm_cache(tmp_path: Path) -> Path:
    """A cache that already holds the library, without compiling it again."""
    (tmp_path / "kernels").mkdir()
    shutil.copy(build.build(), tmp_path / "kernels")
    return tmp_path


def test_without_a_compiler_torch_is_used_and_one_line_says_so(tmp_path: Path) -> None:
    out, err = finish(start(tmp_path, CXX="no-such-compiler"))
    assert out.startswith("torch ")
    assert len(err.strip().splitlines()) == 1
    assert "no C++ compiler" in err
    assert not list(tmp_path.glob("kernels/*.so"))


def test_a_compiler_that_fails_is_no_failure(tmp_path: Path) -> None:
    broken = tmp_path / "broken-compiler"
    broken.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'x.cpp:1: error: out of luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    out, err = finish(start(tmp_path, CXX=str(broken)))
    assert out.startswith("torch ")
    assert len(err.strip().splitlines()) == 1
    assert "error: out of luck" in err
    assert not list(tmp_path.glob("kernels/*.so")), "no half-written file stays"


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    out, _ = finish(start(occupied))
    assert out.startswith("torch ")


@needs_native
def test_the_library_is_compiled_once(warm_cache: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in warm_cache.glob("kernels/*.so")}
    out, err = finish(start(warm_cache))
    assert out.startswith("native ")
    assert err == ""
    assert {path: path.stat().st_mtime_ns for path in warm_cache.glob("kernels/*.so")} == before


@needs_native
@pytest.mark.parametrize("damage", ["truncated", "another library"])
def test_a_damaged_library_is_compiled_again(warm_cache: Path, damage: str) -> None:
    (path,) = warm_cache.glob("kernels/*.so")
    if damage == "another library":
        source = warm_cache / "other.cpp"
        source.write_text("int nothing() { return 0; }")
        compiler = build.find_compiler()
        assert compiler is not None
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    else:
        path.write_bytes(path.read_bytes()[:50000])
    damaged = path.read_bytes()
    out, _ = finish(start(warm_cache))
    assert out.startswith("native ")
    assert path.read_bytes() != damaged


@needs_native
def test_processes_that_start_together_share_one_compilation(tmp_path: Path) -> None:
    wrapper = tmp_path / "counting-compiler"
    compiler = build.find_compiler()
    wrapper.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo x >> {tmp_path}/count\nexec {compiler} "$@"\n')
    wrapper.chmod(0o755)
    results = [finish(process) for process in [start(tmp_path, CXX=str(wrapper)) for _ in range(3)]]
    assert len({out for out, _ in results}) == 1
    assert results[0][0].startswith("native ")
    assert (tmp_path / "count").read_text() == "x\n"
    assert len(list(tmp_path.glob("kernels/*.so"))) == 1


@needs_native
def test_the_avx2_kernels_pass_the_same_tests() -> None:
    """The kernels for CPUs without AVX-512, compiled for x86-64-v3, through the other test files."""
    tests = ["tests/engine/test_kernels.py", "tests/engine/test_kernels_layer.py"]
    code = f"""
import sys, pytest
from engine.kernels import native
assert native.available() and native.required().tl_instruction_set() == b"AVX2"
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *{tests}]))
"""
    cache = build.cache_directory()  # kept between runs: it takes the same time to compile as the native one
    out, err = finish(start(cache, code, TREELINE_KERNELS_MARCH="x86-64-v3"))
    assert "[100%]" in out, out + err


def test_the_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREELINE_CACHE", "/somewhere")
    assert build.cache_directory() == Path("/somewhere")
    monkeypatch.delenv("TREELINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert build.cache_directory() == Path("/xdg/treeline")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert build.cache_directory() == Path.home() / ".cache" / "treeline"
