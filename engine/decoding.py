"""One completion in progress: draft a tree, check it in one pass of the target, commit what the target agrees with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.errors import Cancelled, EngineFaultError
from engine.request import SamplingParams
from engine.roles import Target
from engine.sampling import Sampler
from engine.speculation.ahead import DraftingAhead
from engine.speculation.drafter import Asked, ModelDrafter
from engine.speculation.frontier import GrowthPolicy
from engine.speculation.ngram import NgramDrafter
from engine.speculation.sequoia import Probabilities, sequoia_verify
from engine.speculation.static import Shape
from engine.speculation.tree import TokenTree
from engine.speculation.verifier import Alternative, Verdict, alternatives, verify
from engine.tokenizer import Tokenizer

MAX_DEPTH = 32  # of a tree
USUAL_ROWS = 8  # a pass with more rows of prompt than this says nothing about the cost of checking a tree


@dataclass(slots=True)
class Counters:
    """What a completion has cost so far. `target_passes` are those that chose the `chosen` tokens."""

    target_passes: int = 0
    drafted_tokens: int = 0
    chosen: int = 0


@dataclass(frozen=True, slots=True)
class Speculation:
    """Where guesses come from, and how many of them are checked in a pass: at most `nodes`, fewer as `policy` says.

    `drafter` None: from n-grams alone. `shape`: at temperature > 0, draw trees of this shape from the drafter and
    verify them as Sequoia does; the output then has the target's distribution, but is not that of decoding one by one.
    """

    drafter: ModelDrafter | None
    ngrams: NgramDrafter
    policy: GrowthPolicy
    nodes: int
    shape: Shape | None = None


class Decoding:
    """The state of one completion; the caller owns the loop and calls `step` for as long as it wants more.

    Between two steps another completion may use the same caches. The next step then takes them back and computes again
    what the other one did not share: the tokens are the same as without the interruption.
    """

    def __init__(
        self,
        target: Target,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        sampling: SamplingParams,
        speculation: Speculation | None,
        required: bytes = b"",
        keep_logits: bool = False,
        keep_alternatives: bool = False,
    ) -> None:
        """Continue `prompt`, at least one token. The output begins with the bytes `required` (token healing).

        Without `speculation` every pass yields one token; the tokens are the same. `keep_logits`: let `logits` be what
        the last step's tokens were chosen from, [tokens, vocab]. `keep_alternatives`: let `alternatives` be what that
        step has verified beside them, each with its first token's log-probability under the target.
        """
        self.tokens = list(prompt)
        self.counters = Counters()
        self.logits: Tensor | None = None
        self.alternatives: list[tuple[Alternative, float]] = []
        self._keep_logits = keep_logits
        self._keep_alternatives = keep_alternatives
        self._target = target
        self._tokenizer = tokenizer
        self._speculation = speculation
        self._sampler = Sampler(sampling)
        self._greedy = sampling.temperature == 0 and sampling.repetition_penalty == 1
        self._required = required
        self._random = np.random.default_rng(sampling.seed)
        self.cached_tokens = self._take_caches()

    def _take_caches(self) -> int:
        """Make the caches continue these tokens; return how many of them the target holds already."""
        if self._speculation:
            control = self._tokenizer.control_ids
            self._speculation.ngrams.reset([token for token in self.tokens if token not in control])
            if self._speculation.drafter:
                self._speculation.drafter.reset(self.tokens)
        return self._target.reset(self.tokens, user=self)

    def confidence(self, cancelled: Asked) -> float:
        """Return how probable the drafter's best next token is in its eyes; 1 where there is no drafter that can say.

        Raises Cancelled.
        """
        drafter = self._speculation.drafter if self._speculation else None
        if drafter is None or len(self.tokens) > drafter.context:
            return 1.0
        try:
            return drafter.confidence(self.tokens, cancelled, self._allowed_here())
        except Cancelled:
            drafter.abandon()
            raise

    def step(self, most: int, cancelled: Asked) -> list[int]:
        """Return the next tokens, of which `most` are of use; none after a pass that only read a part of the prompt.

        Raises Cancelled when `cancelled()` turned true; what was committed before stays, nothing else does.
        """
        try:
            return self._step(most, cancelled)
        except Cancelled:
            if self._speculation and self._speculation.drafter:
                self._speculation.drafter.abandon()
            raise

    def _step(self, most: int, cancelled: Asked) -> list[int]:
        started = time.perf_counter()
        self.alternatives = []
        if self._target.user is not self:
            self._take_caches()
        if self._target.prefill(self.tokens, cancelled):
            return []
        tree, decide = self._draft(most, cancelled)
        pending = self.tokens[self._target.cache.length :]
        chain = len(pending) - 1
        parents = [*range(-1, chain), *(chain + parent for parent in tree.parents[1:])]
        before_pass = time.perf_counter()
        with self._meanwhile(len(tree)):
            logits = self._target.run(pending + tree.tokens[1:], parents, chain, cancelled)
        pass_seconds = time.perf_counter() - before_pass
        if not logits[0].sum().isfinite():
            raise EngineFaultError(
                "the target's logits are no finite numbers: its weights are damaged, or its dtype too small"
            )
        verdict = decide(logits)
        if self._keep_logits:
            self.logits = logits[[0, *verdict.nodes]]
        if self._keep_alternatives:
            self.alternatives = self._alternatives(tree, verdict, logits)
        rows = [*range(chain + 1), *(chain + node for node in verdict.nodes)]
        self._target.commit(rows, pending + verdict.tokens[:-1])
        self._accept(tree, verdict.tokens)
        if self._speculation and chain < USUAL_ROWS:
            seconds = time.perf_counter() - started
            self._speculation.policy.record_target(len(parents), pass_seconds)
            self._speculation.policy.record_step(len(verdict.tokens), seconds, tree.promise())
        return verdict.tokens

    def _meanwhile(self, nodes: int) -> AbstractContextManager[None]:
        """What happens during the target's pass: where it waits for weights, the drafter goes on."""
        drafter = self._speculation.drafter if self._speculation else None
        if drafter is None or not self._target.model.streamed:
            return nullcontext()
        return DraftingAhead(drafter, nodes, min(MAX_DEPTH, drafter.context - len(self.tokens)))

    def _draft(self, most: int, cancelled: Asked) -> tuple[TokenTree, Callable[[Tensor], Verdict]]:
        """Return a tree below the last token, and what decides on it, given the target's logits [nodes, vocab]."""
        tree = TokenTree(self.tokens[-1])
        speculation = self._speculation
        depth = min(most - 1, MAX_DEPTH, self._target.context - len(self.tokens))
        if speculation and depth > 0:
            if speculation.shape and self._sampler.params.temperature > 0 and not self._required:
                drawn = self._draw(tree, speculation, depth, cancelled)
                if drawn:
                    return tree, drawn
            tree = self._grow(tree, speculation, depth, cancelled)
        return tree, lambda logits: verify(tree, self._chooser(logits))

    def _grow(self, tree: TokenTree, speculation: Speculation, depth: int, cancelled: Asked) -> TokenTree:
        """Merge the guesses of all sources into one tree, and return what of it is worth verifying."""
        policy, nodes = speculation.policy, speculation.nodes
        allowed = self._allowed_here()
        if allowed is None:
            speculation.ngrams.propose(tree, length=depth, min_probability=max(policy.min_node_probability(), 0.02))
        if speculation.drafter:
            depth = min(depth, speculation.drafter.context - len(self.tokens))
            nodes = speculation.drafter.grow(tree, self.tokens, policy, nodes, depth, cancelled, allowed)
        return tree.prune(nodes)

    def _allowed_here(self) -> Callable[[int], bool] | None:
        """Which tokens may come next; None for all."""
        if not self._required:
            return None
        return set(self._tokenizer.allowed_ids(self._required).tolist()).__contains__

    def _alternatives(self, tree: TokenTree, verdict: Verdict, logits: Tensor) -> list[tuple[Alternative, float]]:
        """What the pass says beside its verdict, the likeliest first."""
        found = alternatives(tree, verdict, self._chooser(logits))
        rows = {each.parent: logits[each.parent].float().log_softmax(-1) for each in found}
        scored = [(each, float(rows[each.parent][each.tokens[0]])) for each in found]
        return sorted(scored, key=lambda each: -each[1])

    def _draw(
        self, tree: TokenTree, speculation: Speculation, depth: int, cancelled: Asked
    ) -> Callable[[Tensor], Verdict] | None:
        """Draw the tree from the drafter's distribution, filtered as the target's is; None where no drafter can."""
        drafter, shape = speculation.drafter, speculation.shape
        depth = min(depth, drafter.context - len(self.tokens)) if drafter else 0
        if drafter is None or shape is None or depth < 1:
            return None

        def distribution(row: Tensor, path: Sequence[int]) -> Probabilities:
            return self._sampler.distribution(row, self.tokens + list(path))

        drawn_from = drafter.sample(tree, self.tokens, shape, distribution, self._random, depth, cancelled)
        return lambda logits: sequoia_verify(
            tree, drawn_from.__getitem__, lambda node, path: distribution(logits[node], path), self._random
        )

    def _chooser(self, logits: Tensor) -> Callable[[int, Sequence[int]], int]:
        """Return the target's choice after each node of the tree. `logits`: [nodes, vocab]."""
        if self._greedy and not self._required:
            if logits.device.type != "cpu":
                best = logits.argmax(-1).cpu().numpy()  # the lower id of equals there too
                return lambda node, _: int(best[node])
            rows = logits.numpy()
            return lambda node, _: int(rows[node].argmax())  # numpy's: the lower id of equals, and one thread
        return lambda node, path: self._sampler.choose(
            logits[node], len(self.tokens) + len(path), self.tokens + list(path), self._allowed(path, logits.shape[1])
        )

    def _allowed(self, path: Sequence[int], vocab_size: int) -> Tensor | None:
        owed = self._owed(path)
        if not owed:
            return None
        allowed = torch.zeros(vocab_size, dtype=torch.bool)
        allowed[torch.tensor(self._tokenizer.allowed_ids(owed))] = True
        return allowed

    def _owed(self, path: Sequence[int]) -> bytes:
        """Return the required bytes that the output followed by `path` does not cover yet."""
        owed = self._required
        for token in path:
            owed = owed[len(self._tokenizer.token_bytes(token)) :]
        return owed

    def _accept(self, tree: TokenTree, chosen: list[int]) -> None:
        self._required = self._owed(chosen)
        self.tokens += chosen
        self.counters.target_passes += 1
        self.counters.drafted_tokens += len(tree) - 1
        self.counters.chosen += len(chosen)
        if self._speculation:
            self._speculation.ngrams.extend(chosen)
            if self._speculation.drafter:
                self._speculation.drafter.accept(chosen)
