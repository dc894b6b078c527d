"""A store is made once, with little, by one process, and what is not exactly what was written is never used."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_stores import (
    LAYERS,
    PIECES,
    SMALL_BLOCK,
    in_memory,
    logits,
    offloaded,
    same,
    use_small_blocks,
    write_target,
)

from engine.errors import TreelineError
from engine.kernels import cpu
from engine.kernels.checksum import checksum
from engine.kernels.packed import PackedLinear
from engine.kernels.weights import NativeWeights
from engine.model.config import ModelConfig
from engine.offload import direct, header, repack
from engine.offload.header import Unusable
from engine.offload.repack import open_store
from engine.offload.store import Store, store_path

pytestmark = [
    pytest.mark.skipif(not cpu.available(), reason="streaming needs the native kernels"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sharded checkpoint without a store, and a cache of its own."""
    use_small_blocks(monkeypatch)
    monkeypatch.setenv("TREELINE_CACHE", str(tmp_path / "cache"))
    return write_target(tmp_path / "target", shards=4)


class Packings:
    """Counts how often a layer is packed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layers: list[int] = []
        real = repack.load_fused_layer

        def load_layer(loader: object, index: int) -> object:
            self.layers.append(index)
            return real(loader, index)  # pyright: ignore[reportArgumentType]

        monkeypatch.setattr(repack, "load_fused_layer", load_layer)


def read_all(directory: Path) -> None:
    """Open the store without making it, and read every byte. Raises what a damaged one raises."""
    store = Store(store_path(directory), directory, ModelConfig.load(directory))
    try:
        for piece in store.pieces:
            store.check(piece)
    finally:
        store.close()


def test_a_store_is_made_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Packings(monkeypatch)
    seen: list[tuple[int, int]] = []
    open_store(target, lambda _, done, total: seen.append((done, total)))
    open_store(target)
    assert packed.layers == list(range(LAYERS))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] > 0
    assert [path.suffix for path in store_path(target).parent.iterdir()] in ([".store", ".lock"], [".lock", ".store"])


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A target with a store, which the tests damage and repair."""
    with pytest.MonkeyPatch.context() as patch:
        use_small_blocks(patch)
        patch.setenv("TREELINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        directory = write_target(tmp_path_factory.mktemp("target"))
        open_store(directory).close()
        yield directory


@settings(max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), in_header=st.booleans())
def test_one_changed_byte_is_found(intact: Path, place: float, change: int, in_header: bool) -> None:
    path = store_path(intact)
    header_size = Store(path, intact, ModelConfig.load(intact)).pieces[0].offset
    offset = int(place * (header_size if in_header else path.stat().st_size))
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ change]))
    try:
        with pytest.raises((Unusable, TreelineError)):
            read_all(intact)
    finally:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([byte]))
    read_all(intact)


def test_damage_is_met_in_the_pass_that_needs_the_layer(target: Path) -> None:
    expected = logits(in_memory(target))
    with offloaded(target) as model:
        assert same(model, expected)
    store = open_store(target)
    offset = store.layer(3)[1].offset + 20_000
    content = bytearray(store.path.read_bytes())
    content[offset] ^= 1
    store.path.write_bytes(content)
    with (
        offloaded(target) as model,
        pytest.raises(TreelineError, match=r"is damaged at offset \d+ \(layer 3\): delete it"),
    ):
        logits(model)
    store.path.unlink()
    with offloaded(target) as model:
        assert same(model, expected)


@pytest.mark.parametrize("part", ["head", "norm", "embedding", "layer 1"])
def test_damage_is_met_when_a_resident_part_is_loaded(target: Path, part: str) -> None:
    store = open_store(target)
    content = bytearray(store.path.read_bytes())
    content[store.parts[part][0].offset + 100] ^= 64
    store.path.write_bytes(content)
    with pytest.raises(TreelineError, match=f"{part}"), offloaded(target, resident=range(PIECES)):
        pass


@pytest.mark.parametrize("keep", [0, 10, 5000, -1, -4096])
def test_a_truncated_store_is_made_again(target: Path, monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    path = open_store(target).path
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(keep if keep >= 0 else size + keep)
    packed = Packings(monkeypatch)
    open_store(target)
    assert packed.layers == list(range(LAYERS))
    read_all(target)


@pytest.mark.parametrize(("name", "value"), [("FORMAT", 3), ("KERNEL", "other")])
def test_a_store_of_another_version_or_kernel_is_made_again(
    target: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    with pytest.MonkeyPatch.context() as other:
        if name == "FORMAT":
            other.setattr(header, name, value)
        else:
            other.setitem(header.KERNELS, "cpu", value)
        open_store(target)
    packed = Packings(monkeypatch)
    open_store(target)
    assert packed.layers == list(range(LAYERS))


@pytest.mark.parametrize("changed", ["config.json", "model-2.safetensors"])
def test_a_changed_checkpoint_is_packed_again(target: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    open_store(target)
    path = target / changed
    if changed == "config.json":
        path.write_text(path.read_text().replace("1e-06", "1e-05"))
    else:
        os.utime(path, ns=(1, 1))
    packed = Packings(monkeypatch)
    expected = logits(in_memory(target))
    with offloaded(target) as model:
        assert same(model, expected)
    assert packed.layers == list(range(LAYERS))


def test_the_layout_of_blocks_is_the_one_that_stores_were_made_with() -> None:
    """If this fails, the layout in csrc/gemm.h has changed: give KERNELS another number, then correct this one."""
    generator = torch.Generator().manual_seed(1)
    weights = [
        PackedLinear.from_dense(torch.randint(-127, 128, (40, 64), generator=generator).float()).weights,
        PackedLinear.from_awq(
            torch.randint(-(2**31), 2**31, (64, 5), generator=generator, dtype=torch.int64).to(torch.int32),
            torch.randint(-(2**31), 2**31, (2, 5), generator=generator, dtype=torch.int64).to(torch.int32),
            torch.rand(2, 40, generator=generator).half(),
            32,
        ).weights,
    ]
    sums = [
        checksum(each.blocks.data_ptr(), each.blocks.numel()) for each in weights if isinstance(each, NativeWeights)
    ]
    assert (header.KERNELS["cpu"], sums) == ("cpu-blocks-1", LAYOUT)


LAYOUT = [4227941367, 2072715626]

# --- making it -------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_finished_layers_are_kept(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, writes = os.pwritev, iter(range(10**6))

    def full(handle: int, buffers: list[memoryview], offset: int) -> int:
        if next(writes) > 18:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, buffers, offset)

    packed = Packings(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(direct.os, "pwritev", full)
        with pytest.raises(TreelineError, match="the disk is full: .* free space and start again"):
            open_store(target)
    begun = list(packed.layers)
    assert 1 < len(begun) < LAYERS
    open_store(target)
    assert packed.layers == [*begun, *range(begun[-1], LAYERS)]
    read_all(target)


def test_too_little_space_is_known_before_anything_is_written(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(repack.shutil, "disk_usage", lambda _: usage(0, 0, 100_000))
    with pytest.raises(TreelineError, match=r"has 0\.0 GiB free, the store of target needs"):
        open_store(target)
    assert not store_path(target).with_suffix(".partial").exists()


SMALL_BLOCKS = f"""
from engine.offload import direct, repack, store, stream, writer
for module in (direct, store, stream, writer):
    module.BLOCK = {SMALL_BLOCK}
"""
KILLED = f"""{SMALL_BLOCKS}
import os, signal, sys
from pathlib import Path
finish = repack.Journal.finish
def killed(journal, part, checksums):
    if part == sys.argv[2]:
        if sys.argv[3] == "torn":
            journal.path.open("ab").write(b'{{"part": "' + part.encode())
        os.kill(os.getpid(), signal.SIGKILL)
    finish(journal, part, checksums)
repack.Journal.finish = killed
repack.open_store(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(("part", "how"), [("layer 2", "clean"), ("layer 3", "torn"), ("embedding", "clean")])
def test_a_killed_repacking_goes_on_where_it_was(
    target: Path, monkeypatch: pytest.MonkeyPatch, part: str, how: str
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), part, how], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    packed = Packings(monkeypatch)
    expected = logits(in_memory(target))
    with offloaded(target) as model:
        assert same(model, expected)
    first = LAYERS if part == "embedding" else int(part.split()[1])
    assert packed.layers == list(range(first, LAYERS))


def test_an_interrupted_repacking_of_a_checkpoint_that_changed_begins_anew(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(target), "layer 3", "clean"], capture_output=True)
    os.utime(target / "model-1.safetensors", ns=(1, 1))
    packed = Packings(monkeypatch)
    open_store(target)
    assert packed.layers == list(range(LAYERS))


COUNTED = f"""{SMALL_BLOCKS}
import sys, time
from pathlib import Path
load, count = repack.load_fused_layer, 0
def counting(loader, index):
    global count
    count += 1
    time.sleep(0.3)  # both are at it at the same time
    return load(loader, index)
repack.load_fused_layer = counting
repack.open_store(Path(sys.argv[1]))
print(count)
"""


def test_of_two_processes_one_makes_the_store(target: Path) -> None:
    command = [sys.executable, "-c", COUNTED, str(target)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(int(output) for output in outputs) == [0, LAYERS]
    read_all(target)


# --- consuming the source --------------------------------------------------------------------------------------------


def shards(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.safetensors"))


def test_consumed_files_are_deleted_and_not_missed(target: Path) -> None:
    expected = logits(in_memory(target))
    open_store(target, consume=True)
    assert shards(target) == []
    with offloaded(target, (1, 2)) as model:
        assert same(model, expected)


def test_an_interrupted_consumption_goes_on(target: Path) -> None:
    expected = logits(in_memory(target))
    code = KILLED.replace("Path(sys.argv[1])", "Path(sys.argv[1]), consume=True")
    subprocess.run([sys.executable, "-c", code, str(target), "head", "clean"], capture_output=True)
    assert 0 < len(shards(target)) < 4
    with offloaded(target) as model:
        assert same(model, expected)


def test_the_target_of_a_link_is_consumed_too(target: Path, tmp_path: Path) -> None:
    """As the Hugging Face cache lays checkpoints out."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for name in shards(target):
        shutil.move(target / name, blobs / name)
        (target / name).symlink_to(blobs / name)
    open_store(target, consume=True)
    assert list(blobs.iterdir()) == []


def test_nothing_is_deleted_that_cannot_be_read_back(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shards(target)
    real = os.pwritev

    def corrupt(handle: int, buffers: list[memoryview], offset: int) -> int:
        buffers[0][17] ^= 1
        return real(handle, buffers, offset)

    monkeypatch.setattr(direct.os, "pwritev", corrupt)
    with pytest.raises(TreelineError, match="nothing was deleted"):
        open_store(target, consume=True)
    assert shards(target) == before


def test_a_damaged_store_whose_source_is_gone_is_refused(target: Path) -> None:
    open_store(target, consume=True)
    path = store_path(target)
    os.truncate(path, path.stat().st_size - 4096)
    with pytest.raises(TreelineError, match="is missing: the checkpoint is incomplete|asks for it"):
        open_store(target)
    assert path.exists()


def test_models_that_cannot_be_streamed_are_refused(target: Path) -> None:
    config = target / "config.json"
    config.write_text(config.read_text().replace('"quantization_config"', '"unused"'))
    with pytest.raises(TreelineError, match="cannot be streamed: it is not quantised"):
        open_store(target)
