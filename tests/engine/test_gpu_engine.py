"""The bundled pair on a GPU: what it says, held against itself without speculation and against the CPU in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from engine.config import Device, DType, EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.kernels.gpu.linear import Int4Linear
from engine.model.transformer import DeviceLayer, never
from engine.request import CompletionRequest, StopRules
from engine.roles import Draft
from tests.engine.gpu import on_a_gpu

pytestmark = [pytest.mark.gpu, on_a_gpu]

# Activations of 16 bits through some ten layers of 4-bit weights: a few of their 11 bits are lost in the end.
LOGITS = 2e-2
NEAR_TIE = 0.05  # of two logits, which stand some units apart as a rule

SOURCE = "import os\n\n\ndef list_files(directory):\n    names = []\n    for name in os.listdir(directory):\n        "
PREFIXES = (SOURCE, SOURCE * 6, "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, ")


def engine(device: Device, dtype: DType = "auto") -> Engine:
    return Engine.load(EngineConfig(device=device, dtype=dtype, context_length=2048))


@pytest.fixture(scope="module")
def on_gpu() -> Engine:
    return engine("cuda")


def request(prefix: str, **fields: Any) -> CompletionRequest:
    stop = StopRules(ignore_end_tokens=True)
    return CompletionRequest(prefix=prefix, path="files.py", max_tokens=48, stop=stop, **fields)


def tokens(model: Engine, asked: CompletionRequest) -> list[int]:
    return [token for chunk in model.complete(asked) for token in chunk.tokens]


def test_layers_are_held_in_4_bits(on_gpu: Engine) -> None:
    for layer in on_gpu._models[0].layers:
        assert isinstance(layer, DeviceLayer)
        assert isinstance(layer.layer.weights.gate_up, Int4Linear)


@pytest.mark.parametrize("prefix", PREFIXES, ids=["short", "long", "class"])
def test_speculation_changes_nothing_but_near_ties(on_gpu: Engine, prefix: str) -> None:
    slow = tokens(on_gpu, request(prefix, speculation=False))
    for budget in (8, 24, 60):
        fast = tokens(on_gpu, request(prefix, budget=budget))
        if fast != slow:
            same = next(i for i, (ours, theirs) in enumerate(zip(fast, slow, strict=True)) if ours != theirs)
            assert on_gpu.logit_gap(request(prefix), slow[:same]) < NEAR_TIE


def test_logits_are_those_of_the_cpu_in_float32(on_gpu: Engine) -> None:
    plain = engine("cpu", "float32")
    ids = on_gpu.prompt(request(SOURCE)).ids
    logits = []
    for model in (on_gpu, plain):
        transformer = model._models[0]
        cache = transformer.new_cache(len(ids))
        logits.append(transformer.forward(ids, range(-1, len(ids) - 1), cache, slice(0, None)).double().cpu())
    assert (logits[0] - logits[1]).norm() / logits[1].norm() < LOGITS


def test_recorded_passes_are_replayed_and_say_the_same(on_gpu: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = tokens(on_gpu, request(SOURCE, speculation=False))
    target = on_gpu._models[0]
    assert target.recordings is not None
    assert not target.recordings._refused
    monkeypatch.setattr(target, "recordings", None)
    assert tokens(on_gpu, request(SOURCE, speculation=False)) == recorded


def test_a_drafter_does_not_wait_for_the_target(on_gpu: Engine) -> None:
    drafter = on_gpu._models[1]
    assert drafter is not None
    draft = Draft(drafter, drafter.config.vocab_size)
    before = draft.branch([5, 6, 7], [-1, 0, 1], 1, 4, never)  # compiles and records what it needs
    draft.truncate(0)
    torch.cuda._sleep(5_000_000_000)  # pyright: ignore[reportPrivateUsage]
    end = torch.cuda.Event()
    end.record()
    assert draft.branch([5, 6, 7], [-1, 0, 1], 1, 4, never) == before
    assert not end.query()


def test_a_full_gpu_is_explained(on_gpu: Engine) -> None:
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(int(free - 2**27), dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(TreelineError, match="the GPU's memory is full"):
            on_gpu._models[0].new_cache(2**20).layers[0].reserve(2**20)  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        del held
        torch.cuda.empty_cache()
