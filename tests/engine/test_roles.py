"""Target and drafter, and what a GPU is told to do side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pairs import PairPaths
from torch import Tensor

from engine import roles
from engine.decoding import Decoding, Speculation
from engine.model.kv_cache import KVCache
from engine.model.loader import LoadOptions, load_transformer
from engine.model.transformer import Transformer, never
from engine.request import SamplingParams
from engine.roles import Draft, Target
from engine.speculation.drafter import ModelDrafter
from engine.speculation.frontier import AnyCost
from engine.speculation.ngram import NgramDrafter
from engine.speculation.static import Shape, best_shape
from engine.tokenizer import Tokenizer


@pytest.mark.parametrize("shape", [None, best_shape(5, 3)], ids=["best first", "drawn"])
def test_a_drafter_computes_beside_the_target(
    pair_paths: PairPaths, monkeypatch: pytest.MonkeyPatch, shape: Shape | None
) -> None:
    """A GPU has another queue for that: all that concerns the drafter's cache goes there, and nothing of the target."""
    model = load_transformer(pair_paths.target, LoadOptions(guesses=True))
    entered = 0
    found: set[tuple[str, bool, bool]] = set()

    @contextmanager
    def beside(device: torch.device) -> Iterator[None]:
        nonlocal entered
        assert device == model.norm.device
        entered += 1
        yield
        entered -= 1

    def forward(of: Transformer, *arguments: Any, run: Any = Transformer.forward) -> Tensor:
        found.add(("forward", of is model, entered == 1))
        return run(of, *arguments)

    def commit(cache: KVCache, rows: Sequence[int], run: Any = KVCache.commit) -> None:
        found.add(("commit", cache is draft.cache, entered == 1))
        run(cache, rows)

    monkeypatch.setattr(roles, "beside", beside)
    monkeypatch.setattr(Transformer, "forward", forward)
    monkeypatch.setattr(KVCache, "commit", commit)
    draft = Draft(model, model.config.vocab_size)
    target = Target(load_transformer(pair_paths.target, LoadOptions()))
    speculation = Speculation(ModelDrafter(draft), NgramDrafter(), AnyCost(), 6, shape)
    sampling = SamplingParams(temperature=0.9)
    decoding = Decoding(target, Tokenizer.load(pair_paths.target), [5, 6, 7], sampling, speculation)
    for _ in range(4):
        decoding.step(16, never)
    assert found == {(what, drafter, drafter) for what in ("forward", "commit") for drafter in (True, False)}
