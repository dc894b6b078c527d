"""How much to draft: Sequoia's static trees, and a budget that follows measured costs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WINDOW = 9  # latest timings kept per size of pass
_STALE = 512  # passes after which a size that was not seen again says nothing any more
_ASSUMED_ROWS = 32  # with passes of one size only: this many rows are taken to cost as much as the pass itself
_DECAY = 0.95  # of a step's weight in the running rate, per later step
_DECAY_OF_TRUST, _PRIOR_TRUST, _LEAST_TRUST = 0.99, 10.0, 0.1  # the prior: so many promises kept
_OUTLIER = 4.0  # a step counts for at most this many times the usual time
# Thresholds of the first steps, which make trees of different sizes to see what a row costs, and of draft passes then.
_FIRST_NODES = 0.05, 1.0, 0.02, 0.3, 0.1
_FIRST_EXPANSION = 0.25
_FIRST_DRAFTS = 4
_LOWEST_NODE = 1e-4
_STRETCH_EVERY = 32  # steps
_PROBE_EVERY, _PROBE_NODE = 128, 0.3  # steps, and the most that a node has to promise in a probe


@dataclass(frozen=True, slots=True)
class StaticTree:
    """A tree shape: `nodes` (the root included), `depth` (draft levels below the root), `rate` (tokens per second)."""

    nodes: int
    depth: int
    rate: float


def expected_tokens(acceptance: Sequence[float], max_nodes: int, max_depth: int) -> NDArray[np.float64]:
    """F `[max_depth + 1, max_nodes + 1]`: expected tokens per pass of the best tree of n nodes and d draft levels.

    `acceptance[i]`: P(the i-th child of an accepted node is the accepted one), best first. Sequoia's dynamic programme
    (Chen et al. 2024, arXiv 2402.12374, section 3): F(1, d) = 1,
    F(n, d) = 1 + max over n_1 + ... + n_k = n - 1 of sum acceptance[i] F(n_i, d - 1).
    """
    table = np.ones((max_depth + 1, max_nodes + 1))
    table[:, 0] = 0
    padded = np.full(2 * max_nodes - 1, -np.inf)
    # shares[m, s] = rest[m - s]: what the later children get of m nodes when this child gets s
    shares = np.lib.stride_tricks.sliding_window_view(padded, max_nodes)[:, ::-1]
    for depth in range(1, max_depth + 1):
        rest = padded[max_nodes - 1 :]
        rest[:] = 0
        for p in reversed(acceptance):
            rest[:] = (shares + p * table[depth - 1, :max_nodes]).max(axis=1)
        table[depth, 1:] = 1 + rest
        if np.array_equal(table[depth], table[depth - 1]):
            table[depth:] = table[depth]
            break
    return table


def best_static_tree(
    acceptance: Sequence[float],
    draft_seconds: float,
    target_seconds: Callable[[int], float],
    max_nodes: int,
    max_depth: int = 32,
) -> StaticTree:
    """The (n, d) that maximises F(n, d) / (d * draft_seconds + target_seconds(n)), the smallest such tree."""
    table = expected_tokens(acceptance, max_nodes, max_depth)
    depths = np.arange(max_depth + 1)[:, None] * draft_seconds
    rates = table[:, 1:] / (depths + np.array([target_seconds(n) for n in range(1, max_nodes + 1)]))
    depth, column = np.unravel_index(int(rates.argmax()), rates.shape)
    return StaticTree(int(column) + 1, int(depth), float(rates[depth, column]))


class PassCosts:
    """Time of a forward pass: seconds = max(flat, fixed + per_row * rows), fitted to what was measured.

    Where weights come from memory or over a link, rows are free until computing takes longer than that: `flat`.
    Timings are kept per power of two of rows, the latest few of each, and enter by their median: an outlier changes
    nothing, and sizes that are rare fade only after hundreds of other passes. Passes above `max_rows` (prefill) are
    ignored.
    """

    def __init__(self, max_rows: int = 256) -> None:
        """An empty model: everything costs 0 until something was recorded."""
        self.max_rows = max_rows
        self.count = 0
        self._timings: dict[int, deque[tuple[float, int]]] = {}
        self._latest: dict[int, int] = {}  # when a size was last seen
        self._curve: Curve | None = Curve(0.0, 0.0, 0.0)

    def record(self, rows: int, seconds: float) -> None:
        """Take in one pass of `rows` rows."""
        if 0 < rows <= self.max_rows and seconds > 0:
            self.count += 1
            size = rows.bit_length()
            self._timings.setdefault(size, deque(maxlen=_WINDOW)).append((seconds, rows))
            self._latest[size] = self.count
            for old in [each for each, count in self._latest.items() if count < self.count - _STALE]:
                del self._timings[old], self._latest[old]
            self._curve = None

    def curve(self) -> Curve:
        """The fitted cost of a pass."""
        if self._curve is None:
            # Noise only ever adds: of two times the lower one is the better witness.
            medians = [(*sorted(timings)[(len(timings) - 1) // 2], len(timings)) for timings in self._timings.values()]
            self._curve = _fit(sorted(medians, key=lambda median: median[1]))
        return self._curve

    def seconds(self, rows: int) -> float:
        """Expected time of a pass of `rows` rows."""
        return self.curve().seconds(rows)


@dataclass(frozen=True, slots=True)
class Curve:
    """seconds = max(flat, fixed + per_row * rows); nothing is below 0."""

    flat: float
    fixed: float
    per_row: float

    def seconds(self, rows: float) -> float:
        """Of a pass of `rows` rows."""
        return max(self.flat, self.fixed + self.per_row * rows)

    def free_rows(self) -> float:
        """How many rows cost no more than one does; infinite if all do."""
        return (self.flat - self.fixed) / self.per_row if self.per_row > 0 else math.inf


_Points = Sequence[tuple[float, int, int]]  # seconds, rows, weight; by rows


def _fit(points: _Points) -> Curve:
    """The curve of least relative squares: a level through the first points, if any, and a line through the others."""
    best, least = Curve(0.0, *_line(points)), math.inf
    for level in range(len(points) - 1):
        flat = _mean(points[:level]) if level else 0.0
        curve = Curve(flat, *_line(points[level:]))
        error = sum(count * (curve.seconds(rows) / seconds - 1) ** 2 for seconds, rows, count in points)
        if error < least - 1e-12:
            best, least = curve, error
    return best


def _mean(points: _Points) -> float:
    """Of the seconds, by relative squares."""
    weights = [count / seconds**2 for seconds, _, count in points]
    return sum(weight * seconds for weight, (seconds, _, _) in zip(weights, points, strict=True)) / sum(weights)


def _line(points: _Points) -> tuple[float, float]:
    """(intercept, slope) of the least relative squares; neither below 0."""
    if len(points) == 1:
        seconds, rows, _ = points[0]
        slope = seconds / (rows + _ASSUMED_ROWS)
        return slope * _ASSUMED_ROWS, slope
    weighted = [(count / seconds**2, rows, seconds) for seconds, rows, count in points]
    total = sum(weight for weight, _, _ in weighted)
    mean_rows = sum(weight * rows for weight, rows, _ in weighted) / total
    mean_seconds = sum(weight * seconds for weight, _, seconds in weighted) / total
    variance = sum(weight * (rows - mean_rows) ** 2 for weight, rows, _ in weighted)
    covariance = sum(weight * (rows - mean_rows) * (seconds - mean_seconds) for weight, rows, seconds in weighted)
    slope = max(covariance / variance, 0.0)
    intercept = mean_seconds - slope * mean_rows
    if intercept < 0:  # the best line through the origin
        squares = sum(weight * rows**2 for weight, rows, _ in weighted)
        return 0.0, sum(weight * rows * seconds for weight, rows, seconds in weighted) / squares
    return intercept, slope


class AutoBudget:
    """Decides what is worth drafting and verifying, from measured costs.

    Renewal-reward: at a running rate of `rate` tokens per second, t seconds are worth rate * t tokens elsewhere. So a
    node is worth verifying while P(accepted) > rate * (target seconds per row), or while rows are free, and a draft
    pass is worth running while the nodes that it adds bring more tokens than rate * (its seconds). Acting so raises the
    rate until it is the best that such trees can reach (Dinkelbach's method for ratios).

    Now and then a step is a probe: it drafts a little although that does not seem to pay, to notice when it does again.
    """

    def __init__(self, max_rows: int = 256) -> None:
        """`max_rows`: larger passes are prefill and say nothing about trees."""
        self.target = PassCosts(max_rows)
        self.draft = PassCosts(max_rows)
        self._tokens = self._seconds = self._weight = 0.0  # decayed sums over steps
        self._promised = self._kept = self._hoped = self._gained = _PRIOR_TRUST
        self._asked = 0.0  # the gain that the draft pass in progress was run for
        self._steps = 0
        self._prefill = False
        self._probing = self._draft_probe = False

    @property
    def rate(self) -> float:
        """Running tokens per second, or those of decoding one by one where that is faster; 0 before the first step."""
        running = self._tokens / self._seconds if self._seconds > 0 else 0.0
        single = self.target.seconds(1)
        return max(running, 1 / single) if running > 0 and single > 0 else running

    def record_target(self, rows: int, seconds: float) -> None:
        """One target pass of `rows` rows (all of them: uncached prompt and tree)."""
        self._prefill = rows > self.target.max_rows
        self.target.record(rows, seconds)

    def record_draft(self, rows: int, seconds: float, gain: float) -> None:
        """One drafter pass of `rows` rows, and the gain that the nodes have which it really added."""
        self.draft.record(rows, seconds)
        self._hoped = self._hoped * _DECAY_OF_TRUST + self._asked
        self._gained = self._gained * _DECAY_OF_TRUST + gain

    def record_step(self, tokens: int, seconds: float, promised: float = 0.0) -> None:
        """One whole step, from drafting to commit: emitted tokens, wall time. Ignored if its pass was a prefill.

        `promised`: the sum of P(accepted) over the nodes of its tree, as their scores have it.
        """
        if self._prefill or seconds <= 0:
            return
        self._promised = self._promised * _DECAY_OF_TRUST + promised
        self._kept = self._kept * _DECAY_OF_TRUST + tokens - 1
        if self._steps >= len(_FIRST_NODES):
            seconds = min(seconds, _OUTLIER * self._seconds / self._weight)
        self._tokens = self._tokens * _DECAY + tokens
        self._seconds = self._seconds * _DECAY + seconds
        self._weight = self._weight * _DECAY + 1
        self._steps += 1
        self._probing = self._draft_probe = self._steps % _PROBE_EVERY == 0

    @property
    def trust(self) -> float:
        """How much of what drafts promised was accepted, at most 1: sampling and a weak drafter keep less."""
        return _share(self._kept, self._promised)

    @property
    def found(self) -> float:
        """How much of what draft passes were run for they found, at most 1: many children are not worth verifying."""
        return _share(self._gained, self._hoped)

    def min_node_probability(self) -> float:
        """P(accepted) under which a node costs the target pass more than it brings; at 1 or above: verify none.

        It holds for nodes beyond the first `free_nodes`.
        """
        if self._steps < len(_FIRST_NODES):
            return _FIRST_NODES[self._steps]
        threshold = max(self.rate * self.target.curve().per_row / self.trust, _LOWEST_NODE)
        return min(threshold, _PROBE_NODE) if self._probing else threshold

    def free_nodes(self) -> int:
        """How many nodes the target pass verifies at no cost beside the root: any node is worth a place among them.

        Now and then twice as many, to learn where costs begin.
        """
        if self._steps < len(_FIRST_NODES):
            return 0
        rows = min(self.target.curve().free_rows(), self.target.max_rows)
        if self._steps % _STRETCH_EVERY == 0:
            rows *= 2
        return max(0, int(rows) - 1)

    def expand(self, gain: float, rows: int) -> bool:
        """Whether a draft pass of `rows` rows pays if it brings `gain` tokens.

        `gain`: the sum over the nodes that it would add of P(accepted), less `min_node_probability()` each for
        their verification.
        """
        self._asked = gain
        if self._steps < len(_FIRST_NODES) or self.draft.count < _FIRST_DRAFTS:
            return gain > _FIRST_EXPANSION
        if self._draft_probe and gain > _FIRST_EXPANSION:
            self._draft_probe = False  # one pass is enough
            return True
        return gain * self.trust * self.found > self.rate * self.draft.seconds(rows)


def _share(part: float, whole: float) -> float:
    return min(max(part / whole, _LEAST_TRUST), 1.0)
