"""The two roles that a Transformer plays, each with its KV cache: the target decides, the drafter guesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

from engine.kernels import cpu
from engine.kernels.device import beside, settle
from engine.model.transformer import Transformer
from engine.speculation.drafter import Asked, Branches, common_prefix

PREFILL_ROWS = 512  # rows of a pass that only fills the cache: bounds the memory that activations take
TREE_ROWS = 512  # room for a tree beyond the last position of the context


class Target:
    """The model whose choices are the output, and the tokens that its cache holds."""

    def __init__(self, model: Transformer) -> None:
        """Take `model` with an empty cache for its whole context."""
        self.model = model
        self.context = model.rope.shape[1]
        self.cache = model.new_cache(self.context + TREE_ROWS)
        self.prefill_rows = PREFILL_ROWS
        self.user: object = None
        self._cached: list[int] = []

    def reset(self, tokens: Sequence[int], user: object = None) -> int:
        """Keep the cache of the longest common prefix with `tokens`, less their last one; return its length.

        The cache is `user`'s from then on.
        """
        self.user = user
        common = max(0, min(common_prefix(self._cached, tokens), len(tokens) - 1))
        self.cache.truncate(common)
        del self._cached[common:]
        return common

    def prefill(self, tokens: Sequence[int], cancelled: Callable[[], bool]) -> bool:
        """Read the next `prefill_rows` of `tokens` into the cache, in one pass; return whether there was a need to.

        The last rows are left to the pass that checks the tree.
        """
        start = self.cache.length
        if len(tokens) - start <= self.prefill_rows:
            return False
        rows = range(self.prefill_rows)
        chunk = tokens[start : start + len(rows)]
        self.model.forward(chunk, range(-1, len(rows) - 1), self.cache, slice(0, 0), cancelled)
        self.commit(rows, chunk)
        return True

    def run(self, tokens: Sequence[int], parents: Sequence[int], first: int, cancelled: Callable[[], bool]) -> Tensor:
        """Run one pass; return the logits of the rows from `first` on. The rows stay uncommitted."""
        return self.model.forward(tokens, parents, self.cache, slice(first, None), cancelled)

    def commit(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep a path of rows, which hold `tokens`, and forget the others."""
        self.cache.commit(rows)
        self._cached += tokens


class Draft:
    """A drafter's model behind the interface that `engine.speculation` knows (DraftModel).

    A GPU computes its passes beside those of the target, which may wait there for weights. Nothing is shared between
    the two but host memory, and all that a pass yields has come there when it returns.
    """

    def __init__(self, model: Transformer, vocab_size: int) -> None:
        """Take `model` with an empty cache for its whole context. `vocab_size`: the target's, which may differ.

        Models of one tokenizer pad their vocabularies to different sizes.
        """
        self.model = model
        self.vocab_size = vocab_size
        self._last = model.config.vocab_size - 1
        self.context = model.rope.shape[1]
        self._device = model.norm.device
        settle(self._device)  # the weights are there now
        with beside(self._device):
            self.cache = model.new_cache(self.context + TREE_ROWS)

    def read(self, tokens: Sequence[int], cancelled: Asked) -> int:
        """See DraftModel."""
        if len(tokens) <= PREFILL_ROWS:
            return 0
        rows = range(PREFILL_ROWS)
        with beside(self._device):
            self._run(tokens[: len(rows)], range(-1, len(rows) - 1), 0, cancelled)
            self.cache.commit(rows)
        return len(rows)

    def branch(
        self, tokens: Sequence[int], parents: Sequence[int], wanted: int, count: int, cancelled: Asked
    ) -> Branches:
        """See DraftModel."""
        with beside(self._device):
            logits, _ = self._forward(tokens, parents, wanted, cancelled)
            ids, logprobs = cpu.top_logprobs(logits, min(count, logits.shape[1]))
            return Branches(ids.tolist(), logprobs.tolist())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]

    def logits(
        self, tokens: Sequence[int], parents: Sequence[int], wanted: int, cancelled: Asked
    ) -> tuple[int, Tensor]:
        """See DraftModel. Tokens that the drafter does not predict have -inf. On the CPU."""
        with beside(self._device):
            logits, first = self._forward(tokens, parents, wanted, cancelled)
            logits = logits.cpu()
        missing = self.vocab_size - logits.shape[1]
        return first, functional.pad(logits, (0, missing), value=float("-inf"))

    def commit(self, rows: Sequence[int]) -> None:
        """See DraftModel."""
        with beside(self._device):
            self.cache.commit(rows)

    def truncate(self, length: int) -> None:
        """See DraftModel."""
        self.cache.truncate(length)

    def _forward(
        self, tokens: Sequence[int], parents: Sequence[int], wanted: int, cancelled: Asked
    ) -> tuple[Tensor, int]:
        logits = self._run(tokens, parents, wanted, cancelled)
        return logits[:, : self.vocab_size], len(self.cache.parents) - wanted

    def _run(self, tokens: Sequence[int], parents: Sequence[int], wanted: int, cancelled: Asked) -> Tensor:
        known = [min(token, self._last) for token in tokens]  # the target may say a token that only pads its vocabulary
        return self.model.forward(known, parents, self.cache, slice(len(tokens) - wanted, None), cancelled)
