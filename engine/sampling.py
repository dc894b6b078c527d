"""Choosing the next token from one row of logits, with noise keyed by (seed, position)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.request import SamplingParams

_CACHED_POSITIONS = 16
_LIKELY = 6.0  # tokens whose log-probability is this far below the best one's win by luck only


class Sampler:
    """Chooses tokens for one request.

    A choice is a pure function of (logits, history, params, position): the Gumbel noise of a position comes from a
    counter-based generator, so the text at a given seed does not depend on how tokens were drafted. Filters have the
    order and meaning of transformers': repetition penalty, temperature, top-k, top-p; where values tie at the edge
    of a filter, all of them stay.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self._noise: dict[int, NDArray[np.uint32]] = {}
        self._history: list[int] = []
        self._history_ids = np.empty(256, dtype=np.int64)

    def choose(
        self, logits: torch.Tensor, position: int, history: Sequence[int], allowed: torch.Tensor | None = None
    ) -> int:
        """The token to put at absolute `position`; at temperature 0 the best one, ties to the lowest id.

        `logits`: [vocab] float32. `history`: all tokens before the chosen one: prompt, output, tree path (read only
        with a repetition penalty). `allowed`: [vocab] bool, at least one true; others are never chosen.
        """
        scores = self._penalised(logits, history, allowed)
        if self.params.temperature == 0:
            return int(scores.argmax())
        ids, kept = self._filtered(scores)
        bits = self._bits(position, len(scores))
        if ids is None:
            ids = _contenders(kept, bits)
            kept = kept[ids]
        return int(ids[(kept + _gumbel(bits[ids])).argmax()])

    def distribution(
        self, logits: torch.Tensor, history: Sequence[int], allowed: torch.Tensor | None = None
    ) -> NDArray[np.float64]:
        """Probabilities `[vocab]` that `choose` follows over all seeds. Arguments as for `choose`."""
        scores = self._penalised(logits, history, allowed)
        probs = np.zeros(len(scores))
        if self.params.temperature == 0:
            probs[scores.argmax()] = 1.0
            return probs
        ids, kept = self._filtered(scores)
        weights = np.exp(kept, dtype=np.float64)
        probs[slice(None) if ids is None else ids] = weights / weights.sum()
        return probs

    def _bits(self, position: int, vocab_size: int) -> NDArray[np.uint32]:
        """The random bits of an absolute position, kept for the other nodes of a tree that stand there."""
        bits = self._noise.get(position)
        if bits is None or len(bits) != vocab_size:
            if len(self._noise) >= _CACHED_POSITIONS:
                del self._noise[next(iter(self._noise))]
            bits = self._noise[position] = _random_bits(self.params.seed, position, vocab_size)
        return bits

    def _penalised(
        self, logits: torch.Tensor, history: Sequence[int], allowed: torch.Tensor | None
    ) -> NDArray[np.float32]:
        """Logits `[vocab]` after the repetition penalty, -inf where not allowed. May share memory with `logits`."""
        scores: NDArray[np.float32] = logits.detach().float().cpu().numpy()
        penalty = self.params.repetition_penalty
        if penalty != 1:
            ids = self._history_array(history)
            seen = scores[ids]
            scores = scores.copy()
            scores[ids] = np.where(seen < 0, seen * penalty, seen / penalty)
        if allowed is not None:
            scores = np.where(allowed.cpu().numpy(), scores, np.float32(-np.inf))
        return scores

    def _filtered(self, scores: NDArray[np.float32]) -> tuple[NDArray[np.intp] | None, NDArray[np.float32]]:
        """(ids, log-weights) of the tokens that pass the filters; ids None means the whole vocabulary, in order.

        Log-weights are relative to the best token's, which is 0, so that no temperature overflows.
        """
        with np.errstate(over="ignore"):
            scaled = (scores - scores.max()) / np.float32(max(self.params.temperature, 1e-30))
        ids: NDArray[np.intp] | None = None
        if 0 < self.params.top_k < len(scaled):
            ids = np.flatnonzero(scaled >= _kth_largest(scaled, self.params.top_k))
            scaled = scaled[ids]
        if self.params.top_p < 1:
            kept = _nucleus(scaled, self.params.top_p)
            ids = kept if ids is None else ids[kept]
            scaled = scaled[kept]
        return ids, scaled

    def _history_array(self, history: Sequence[int]) -> NDArray[np.int64]:
        """`history` as an array, converting only what is new since the last call (duplicates do no harm here)."""
        known = len(self._history)
        if known > len(history) or list(history[:known]) != self._history:
            known = 0
        self._history[known:] = history[known:]
        while len(self._history_ids) < len(history):
            self._history_ids = np.concatenate([self._history_ids, self._history_ids])
        self._history_ids[known : len(history)] = history[known:]
        return self._history_ids[: len(history)]


def _kth_largest(values: NDArray[np.float32], k: int) -> np.float32:
    """The k-th largest value, counting equal ones; k at most the number of values."""
    groups = len(values) // 64
    if groups >= k:
        # The best of k groups are k of the values: what is below all of them is not among the k largest.
        best = values[: groups * 64].reshape(64, groups).max(axis=0)
        values = values[values >= np.partition(best, groups - k)[groups - k]]
    return np.partition(values, len(values) - k)[len(values) - k]


def _nucleus(scaled: NDArray[np.float32], top_p: float) -> NDArray[np.intp]:
    """Indices, ascending, of the smallest set of best tokens whose probability reaches `top_p`."""
    weights = np.exp(scaled, dtype=np.float64)
    removable = (1 - top_p) * weights.sum()
    # Tokens under an even share of what may be removed are removed in any case: only the others need sorting.
    candidates = np.flatnonzero(weights >= min(removable / len(weights), 1.0))  # the best weight is 1
    ascending = np.sort(weights[candidates])
    removed = weights.sum() - ascending.sum()
    first = int((removed + ascending.cumsum()).searchsorted(removable, side="right"))
    edge = ascending[min(first, len(ascending) - 1)]
    return candidates[weights[candidates] >= edge]


def gumbel_noise(seed: int, position: int, size: int) -> NDArray[np.float64]:
    """Standard Gumbel noise `[size]`, a function of the arguments alone.

    Each value comes from 32 random bits, which resolves probabilities down to about 1e-9.
    """
    return _gumbel(_random_bits(seed, position, size))


def _random_bits(seed: int, position: int, size: int) -> NDArray[np.uint32]:
    """Counter-based: Philox, Salmon et al. 2011."""
    generator = np.random.Philox(key=seed % 2**128, counter=position << 64)
    return generator.random_raw((size + 1) // 2).view(np.uint32)[:size]


def _gumbel(bits: NDArray[np.uint32]) -> NDArray[np.float64]:
    uniform = (bits + 0.5) * 2.0**-32  # never 0 or 1
    return -np.log(-np.log(uniform))


def _contenders(kept: NDArray[np.float32], bits: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Indices, ascending, among which the largest of `kept` plus noise is: logarithms are what takes time.

    Of the tokens that are unlikely, only those matter whose noise alone could lift them over the best of the likely.
    """
    likely = np.flatnonzero(kept > -_LIKELY)
    best = float((kept[likely] + _gumbel(bits[likely])).max())
    with np.errstate(over="ignore"):
        needed = np.exp(-np.exp(-(best + _LIKELY))) * 2.0**32 - 2  # bits, rounded down by more than their offset
    return np.flatnonzero((kept > -_LIKELY) | (bits > np.uint32(max(needed, 0))))
