"""Streaming to a GPU, with the CPU as the device: every layer is itself in every tier, and copies keep their order."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import Cancelled, TreelineError
from engine.kernels import copies as copies_module
from engine.kernels import reference
from engine.kernels.copies import CudaCopies, Mark, PlainCopies
from engine.kernels.cuda import DenseLinear, GpuHead, GpuLayer, Int4Linear
from engine.model import loader
from engine.model.loader import LoadOptions, load_transformer
from engine.model.transformer import DeviceLayer, Transformer
from engine.offload import direct, gpu_load
from engine.offload.device_ring import DeviceRing
from engine.offload.gpu_load import load_on_device, load_within_gpu
from engine.offload.header import Unusable
from engine.offload.planner import Plan
from engine.offload.repack import open_store
from engine.offload.store import Store, store_path
from engine.offload.stream import StreamedLayers
from tests.engine.awq_checkpoints import write_packed
from tests.engine.checkpoints import qwen2
from tests.engine.offload_stores import LAYERS, logits, same, use_small_blocks, write_target

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def triton_anywhere() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "runs_triton", lambda device: True)
        yield


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        use_small_blocks(patch)
        patch.setenv("TREELINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield write_target(tmp_path_factory.mktemp("target"))


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels in which every byte of a layer counts, and the interpreter takes no time."""

    def layer(self: GpuLayer, hidden: Tensor, *_: object) -> None:
        weights = self.weights
        for part in (*weights_of(self), weights.input_norm, weights.post_attention_norm):
            data = part.contiguous().view(torch.uint8).flatten().double()
            digest = data @ torch.arange(1, len(data) + 1, dtype=torch.float64).remainder(251)
            columns = torch.arange(1, hidden.shape[1] + 1, dtype=torch.float64)
            hidden.mul_(0.75).add_((columns * digest.remainder(97)).sin().float())

    def head(self: GpuHead, x: Tensor, norm: Tensor, eps: float) -> Tensor:
        return reference.rms_norm(x, norm, eps) @ self.linear.weight.float().T

    monkeypatch.setattr(GpuLayer, "__call__", layer)
    monkeypatch.setattr(GpuHead, "__call__", head)


def weights_of(layer: GpuLayer) -> Iterator[Tensor]:
    weights = layer.weights
    for linear in (weights.qkv, weights.output, weights.gate_up, weights.down):
        yield linear.buffer if isinstance(linear, Int4Linear) else linear.weight
        if isinstance(linear, DenseLinear) and linear.bias is not None:
            yield linear.bias


def whole(directory: Path) -> Transformer:
    """As it is loaded where it fits, in the GPU's kernels."""
    model = load_transformer(directory, LoadOptions())
    assert isinstance(model.layers[0], DeviceLayer)
    model.recordings = None
    return model


@pytest.fixture
def expected(target: Path, plain_kernels: None) -> Tensor:
    return logits(whole(target))


@contextmanager
def placed(directory: Path, tiers: str, slots: int = 3, copies: PlainCopies | None = None) -> Iterator[Transformer]:
    """The target with a letter for each layer: d for the device, h for the host's memory, s for the disk's store."""
    store = open_store(directory, kind="cuda")
    device, host = (tuple(i for i, tier in enumerate(tiers) if tier == letter) for letter in "dh")
    plan = Plan(0, 128, slots, device, host, store.layout.pass_sizes, (), 0)
    model = load_on_device(store, plan, CPU, copies or PlainCopies())
    try:
        yield model
    finally:
        if isinstance(model.layers, StreamedLayers):
            model.layers.close()


def passes(model: Transformer, count: int) -> None:
    for _ in range(count):
        logits(model)


ALIKE = [letter * LAYERS for letter in "dhs"]
MOVED = ["".join("hsd"[(place + shift) % 3] for place in range(LAYERS)) for shift in range(3)]
ALONE = [letter.join((others * place, others * (LAYERS - 1 - place))) for letter, others in ("dh", "hs", "sd", "ds")
         for place in (0, LAYERS // 2, LAYERS - 1)]  # fmt: skip


@pytest.mark.parametrize("tiers", [*ALIKE, *MOVED, *ALONE])
def test_every_layer_computes_the_same_in_every_tier(target: Path, expected: Tensor, tiers: str) -> None:
    with placed(target, tiers) as model:
        assert same(model, expected)
        assert same(model, expected)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("dense", [(), (1,)])
@pytest.mark.usefixtures("plain_kernels")
def test_layers_may_have_biases_and_be_dense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, dense: tuple[int, ...]
) -> None:
    use_small_blocks(monkeypatch)
    monkeypatch.setenv("TREELINE_CACHE", str(tmp_path / "cache"))
    directory = write_target(tmp_path / "target", family, dense)
    wanted = logits(whole(directory))
    with placed(directory, "hsdhs") as model:
        assert same(model, wanted)


def test_the_kernels_themselves_find_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Triton's interpreter, which is slow: a tiny model, each of whose layers comes from another tier."""
    monkeypatch.setenv("TREELINE_CACHE", str(tmp_path / "cache"))
    config = qwen2(num_hidden_layers=3, hidden_size=64, intermediate_size=64, vocab_size=64, num_attention_heads=2,
                   num_key_value_heads=1)  # fmt: skip
    directory = tmp_path / "target"
    write_packed(directory, config, 32, {}, lambda _: True)

    def one(model: Transformer) -> Tensor:
        return model.forward([3], [-1], model.new_cache(4), slice(None))

    with placed(directory, "hsd") as model:
        assert torch.equal(one(model), one(whole(directory)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])  # kernels may stay plain
@given(tiers=st.text("dhs", min_size=LAYERS, max_size=LAYERS), stops=st.lists(st.integers(0, LAYERS - 1), max_size=3))
def test_a_cancelled_pass_leaves_a_right_next_one(target: Path, expected: Tensor, tiers: str, stops: list[int]) -> None:
    with placed(target, tiers) as model:
        for stop in stops:
            with pytest.raises(Cancelled):
                logits(model, cancelled_before=stop)
        assert same(model, expected)


def test_a_read_error_ends_the_pass_and_a_mended_disk_the_errors(
    target: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with placed(target, "shsds") as model:
        piece = open_store(target, kind="cuda").layer(2)[0]
        broken = range(piece.offset, piece.offset + piece.size)
        read = os.preadv

        def preadv(handle: int, buffers: list[memoryview], offset: int) -> int:
            if offset in broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(handle, buffers, offset)

        monkeypatch.setattr(direct.os, "preadv", preadv)
        for _ in range(3):
            with pytest.raises(TreelineError, match=r"cannot read .*\.cuda\.store at offset \d+: Input/output error"):
                passes(model, 5)  # the first ones may find in the rings what they need
        broken = range(0)
        assert same(model, expected)


class Failing(PlainCopies):
    """Whose call `broken` fails as CUDA's do, until it is mended."""

    def __init__(self, broken: str) -> None:
        self.broken = broken

    def copy(self, source: Tensor, target: Tensor) -> None:
        self.call("copy")
        super().copy(source, target)

    def copied(self) -> Mark:
        self.call("copied")
        return Noticing(self)

    def wait(self, mark: Mark) -> None:
        self.call("wait")

    def call(self, name: str) -> None:
        if name == self.broken:
            raise RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")


class Noticing:
    def __init__(self, copies: Failing) -> None:
        self._copies = copies

    def synchronize(self) -> None:
        self._copies.call("synchronize")


@pytest.mark.parametrize("broken", ["copy", "copied", "wait", "synchronize"])
def test_whatever_fails_in_the_copier_ends_the_pass_and_is_gone_once_mended(
    target: Path, expected: Tensor, broken: str
) -> None:
    copies = Failing(broken)
    with placed(target, "shsds", copies=copies) as model:
        for _ in range(2):
            with pytest.raises(TreelineError, match=r"could not be copied to the GPU: .* launch failure$") as caught:
                passes(model, 3)  # in the first of which slots that were not used yet wait for nothing
            assert isinstance(caught.value.__cause__, RuntimeError)
        copies.broken = ""
        assert same(model, expected)


def test_a_store_for_another_device_is_not_taken_for_one(target: Path) -> None:
    open_store(target, kind="cuda").close()
    open_store(target).close()
    config = loader.ModelConfig.load(target)
    with pytest.raises(Unusable, match="made for other kernels: gpu-planes-1"):
        Store(store_path(target, "cuda"), target, config, "cpu")
    with pytest.raises(Unusable, match="made for other kernels: cpu-blocks-1"):
        Store(store_path(target), target, config, "cuda")


# --- loading -------------------------------------------------------------------------------------------------------


def test_a_budget_is_shared_between_device_host_and_disk(
    target: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TreelineError, match="it needs at least") as refused:
        load_within_gpu(1, target, None, 128, CPU)
    least = int(str(refused.value).split("at least ")[1].split()[0]) * 2**20
    for host, on_host in ((0, 0), (5 * 2**20, 2), (2**30, 4)):  # of 4 layers that do not fit, of 2 MiB each
        ring = 3 * open_store(target, kind="cuda").layer(0)[0].size
        free = gpu_load.HOST_SPARE + ring + host
        monkeypatch.setattr(gpu_load, "available_memory", lambda free=free: free)
        model, drafter, plan = load_within_gpu(least + 2**21, target, None, 128, CPU)
        assert drafter is None
        assert (len(plan.resident), len(plan.host)) == (1, on_host), plan
        assert isinstance(model.layers, StreamedLayers)
        assert same(model, expected)
        model.layers.close()


def test_a_full_gpu_is_said_and_leaves_no_thread(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    before = set(threading.enumerate())
    monkeypatch.setattr(gpu_load, "_head", full)
    with pytest.raises(
        TreelineError, match=r"the GPU's memory is full: .* was to take 3\.0 GiB of it; close what else"
    ):
        load_within_gpu(3 * 2**30, target, None, 128, CPU)
    assert set(threading.enumerate()) == before


def test_the_engine_streams_to_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What Engine.load does with another device than the CPU, up to the device itself."""
    asked: list[tuple[object, ...]] = []

    def load(*arguments: object) -> object:
        asked.append(arguments)
        raise TreelineError("far enough")

    monkeypatch.setattr("engine.loading.pick_device", lambda *_, **__: torch.device("cuda"))
    monkeypatch.setattr("engine.offload.load.load_within_gpu", load)
    with pytest.raises(TreelineError, match="far enough"):
        Engine.load(EngineConfig(memory=2**20, device="cuda"))
    memory, _, _, _, device, *_ = asked[0]
    assert (memory, device) == (2**20, torch.device("cuda"))


class Refusing:
    """Of CUDA's runtime: pins as many pieces as it is told to, and no more, and lets go of no piece but the first.

    An error is kept until the next launch, which then fails.
    """

    def __init__(self, granted: int) -> None:
        self.granted, self.pinned, self.error = granted, set[int](), 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert size > 0
        assert flags == 0
        if len(self.pinned) >= self.granted:
            return self.failed(2)
        self.pinned.add(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        kept = len(self.pinned) < self.granted
        self.pinned.remove(address)
        return self.failed(713) if kept else 0

    def failed(self, error: int) -> int:
        self.error = error
        return error

    def zeros(self, *_: object, **__: object) -> None:
        error, self.error = self.error, 0
        if error:
            raise RuntimeError(f"CUDA error {error}")


class NoStream:
    def __init__(self, device: torch.device) -> None:
        pass

    def synchronize(self) -> None:
        pass


def test_memory_that_is_not_pinned_is_said_once_and_used_all_the_same(
    target: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Refusing(2)
    monkeypatch.setattr(copies_module.torch.cuda, "Stream", NoStream)
    monkeypatch.setattr(copies_module.torch.cuda, "cudart", lambda: runtime)
    pinning = CudaCopies(torch.device("cuda"))

    class Pinning(PlainCopies):
        def pin(self, memory: Tensor) -> bool:
            with monkeypatch.context() as launching:
                launching.setattr(copies_module.torch, "zeros", runtime.zeros)
                return pinning.pin(memory)

    with placed(target, "hhhhs", copies=Pinning()) as model:
        assert same(model, expected)
        assert len(runtime.pinned) == 2
    assert runtime.error == 0
    notices = [record.getMessage() for record in caplog.records if "pins no more" in record.getMessage()]
    assert len(notices) == 1
    monkeypatch.setattr(copies_module.torch, "zeros", runtime.zeros)
    pinning.close()
    assert runtime.pinned == set()
    assert runtime.error == 0


# --- order ---------------------------------------------------------------------------------------------------------


class Simulated:
    """A device whose two queues run when they please: nothing but the marks that are waited for orders them.

    Whatever computes is put on its queue by `compute`. An entry is what it does, and the mark that it is, if it is one.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._copying: deque[Entry] = deque()
        self._computing: deque[Entry] = deque()

    def pin(self, memory: Tensor) -> bool:
        return memory.numel() > 0

    def copy(self, source: Tensor, target: Tensor) -> None:
        self._put(self._copying, Entry(lambda: target.copy_(source)))

    def copied(self) -> Mark:
        return self._mark(self._copying)

    def wait(self, mark: Mark) -> None:
        assert isinstance(mark, Passing)
        self._put(self._copying, Entry(None, awaits=mark))

    def computed(self) -> Mark:
        return self._mark(self._computing)

    def hold(self, mark: Mark) -> None:
        assert isinstance(mark, Passing)
        self._put(self._computing, Entry(None, awaits=mark))

    def compute(self, work: Callable[[], object]) -> None:
        self._put(self._computing, Entry(work))

    def close(self) -> None:
        self.run(until=lambda: not self._copying and not self._computing)

    def run(self, until: Callable[[], bool]) -> None:
        """Run entries of either queue, whichever chance picks of those that wait for nothing."""
        with self._lock:
            while not until():
                ready = [queue for queue in (self._copying, self._computing) if queue and queue[0].ready]
                assert ready, "the queues wait for each other"
                self._random.choice(ready).popleft().run()

    def _put(self, queue: deque[Entry], entry: Entry) -> None:
        with self._lock:
            queue.append(entry)
            for _ in range(self._random.randrange(4)):  # something gets done meanwhile, or nothing
                ready = [each for each in (self._copying, self._computing) if each and each[0].ready]
                if ready:
                    self._random.choice(ready).popleft().run()

    def _mark(self, queue: deque[Entry]) -> Mark:
        mark = Passing(self)
        self._put(queue, Entry(mark.set_passed))
        return mark


class Passing:
    def __init__(self, device: Simulated) -> None:
        self._device, self.passed = device, False

    def set_passed(self) -> None:
        self.passed = True

    def synchronize(self) -> None:
        self._device.run(until=lambda: self.passed)


class Entry:
    def __init__(self, work: Callable[[], object] | None, awaits: Passing | None = None) -> None:
        self._work, self._awaits = work, awaits

    @property
    def ready(self) -> bool:
        return self._awaits is None or self._awaits.passed

    def run(self) -> None:
        if self._work:
            self._work()


def pass_over(ring: DeviceRing, device: Simulated, pieces: int, found: list[Tensor], stop: int | None = None) -> None:
    """Compute with every piece, which here is to note what its slot holds, or leave after taking piece `stop`."""
    ring.rewind()
    for number in range(pieces):
        (slot,) = ring.take()
        device.compute(lambda slot=slot: found.append(ring.slots[slot].clone()))
        if number == stop:
            return
        ring.give_back()


@settings(max_examples=60)
@given(data=st.data(), slots=st.integers(1, 4), pieces=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_whatever_runs_late_finds_its_piece(data: st.DataObject, slots: int, pieces: int, seed: int) -> None:
    device = Simulated(seed)
    sources: Sequence[Tensor | None] = [torch.full((8,), number, dtype=torch.uint8) for number in range(pieces)]
    ring = DeviceRing(device, sources, [torch.zeros(8, dtype=torch.uint8) for _ in range(slots)], None)
    found: list[Tensor] = []
    wanted: list[int] = []
    for stop in data.draw(st.lists(st.one_of(st.none(), st.integers(0, pieces - 1)), min_size=1, max_size=6)):
        pass_over(ring, device, pieces, found, stop)
        wanted += range(pieces if stop is None else stop + 1)
    ring.close()
    assert [piece.tolist() for piece in found] == [[number] * 8 for number in wanted]


@pytest.mark.parametrize("forgotten", ["wait", "hold"])
def test_the_simulated_device_notices_a_forgotten_order(monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    monkeypatch.setattr(Simulated, forgotten, lambda *_: None)
    wrong = 0
    for seed in range(30):
        device = Simulated(seed)
        sources = [torch.full((8,), number, dtype=torch.uint8) for number in range(5)]
        ring = DeviceRing(device, sources, [torch.full((8,), 255, dtype=torch.uint8) for _ in range(2)], None)
        found: list[Tensor] = []
        for _ in range(3):
            pass_over(ring, device, 5, found)
        ring.close()
        wrong += [piece[0].item() for piece in found] != [*range(5)] * 3
    assert wrong


def test_the_host_stays_close_to_the_device() -> None:
    """So that a pass that is cancelled ends on the device soon after it ended on the host."""
    device = Simulated(0)
    sources = [torch.zeros(8, dtype=torch.uint8)] * 8
    ring = DeviceRing(device, sources, [torch.zeros(8, dtype=torch.uint8) for _ in range(3)], None)
    done: list[int] = []
    for number in range(8):
        ring.take()
        assert len(done) >= number - 3
        device.compute(lambda number=number: done.append(number))
        ring.give_back()
    ring.close()
    assert done == [*range(8)]


def test_closing_ends_the_thread_and_who_waits_for_it() -> None:
    before = set(threading.enumerate())
    ring = DeviceRing(PlainCopies(), [torch.zeros(8)], [torch.zeros(8)], None)
    ring.take()
    ring.close()
    assert set(threading.enumerate()) == before
    ring.give_back()

    def take_all() -> None:
        for _ in range(3):  # what is there already may be taken
            ring.take()
            ring.give_back()

    with pytest.raises(TreelineError, match="closed"):
        take_all()
