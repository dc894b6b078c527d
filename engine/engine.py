"""The engine: a request in, verified chunks of text out. One request at a time; whoever shares it queues them."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from engine.branches import BranchReader
from engine.chat_template import ChatTemplate, build_chat_prompt
from engine.config import EngineConfig
from engine.decoding import Decoding, Speculation
from engine.errors import Cancelled, TreelineError
from engine.loading import LoadProgress, load_models
from engine.logprobs import token_logprobs
from engine.model.transformer import Transformer, never
from engine.offload.demand import counted_nodes
from engine.offload.stream import StreamedLayers
from engine.prompt import Prompt, PromptLayout, build_prompt
from engine.request import MAX_BUDGET, Branch, CompletionChunk, CompletionRequest, CompletionStats, TokenLogprob
from engine.roles import Draft, Target
from engine.sequence import Sequence
from engine.speculation.budget import AutoBudget
from engine.speculation.drafter import ModelDrafter
from engine.speculation.frontier import AnyCost
from engine.speculation.ngram import NgramDrafter
from engine.speculation.static import best_shape
from engine.tokenizer import Tokenizer

AUTO_NODES = 63  # with the root, 64 rows: most draft nodes of a tree whose size follows measured costs
SHAPE_NODES, SHAPE_DEPTH = 16, 8  # of a tree that is drawn (Sequoia), where the user names no budget
REMEMBERED = 16  # tokens before a completion that are kept with it, as the key to find it by


@dataclass(frozen=True, slots=True)
class _Lane:
    """The caches that one kind of request fills: those of the target, of the drafter and of the n-grams."""

    target: Target
    drafter: ModelDrafter | None
    ngrams: NgramDrafter


class Engine:
    """A target, its drafter and what they remember between requests.

    A later request that shares a beginning with an earlier one reuses the KV caches; nothing else of a request outlives
    it, except what costs teach about the tree's size, which never changes the output.
    """

    def __init__(
        self,
        target: Transformer,
        drafter: Transformer | None,
        tokenizer: Tokenizer,
        layout: PromptLayout,
        budget: int | None = None,
        sequoia: bool = False,
        template: ChatTemplate | None = None,
        chat_caches: bool = True,
        most_nodes: int = MAX_BUDGET,
    ) -> None:
        """Use models that are loaded already.

        `budget`: draft nodes per pass, None to choose from measured costs. `sequoia`: verify as Sequoia does at
        temperature > 0. `template`: of conversations; without it they are refused. `chat_caches`: conversations have
        caches of their own, so that they and completions leave each other's alone. `most_nodes`: of a tree, whatever
        budget a request names.
        """
        if tokenizer.vocab_size > target.config.vocab_size:
            raise TreelineError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {target.config.vocab_size}: they do not"
                " belong together"
            )
        self.tokenizer = tokenizer
        self.layout = layout
        self._models = (target, drafter)
        self._budget = budget
        self._sequoia = sequoia
        self._template = template
        self._chat_caches = chat_caches
        self._most_nodes = most_nodes
        self.reset()

    @classmethod
    def load(cls, config: EngineConfig, progress: LoadProgress | None = None) -> Engine:
        """Load the models that `config` names.

        `progress(phase, done, total)` counts layers. Raises TreelineError saying what is missing or does not fit.
        """
        models = load_models(config, progress)
        return cls(
            models.target,
            models.drafter,
            models.tokenizer,
            models.layout,
            config.budget,
            config.verification == "sequoia",
            models.template,
            chat_caches=config.memory is None,  # a limit was checked against one set of caches
            most_nodes=MAX_BUDGET if config.memory is None else counted_nodes(config.budget),  # and such trees
        )

    def close(self) -> None:
        """Stop the threads that read a streamed target; the engine cannot complete any more."""
        layers = self._models[0].layers
        if isinstance(layers, StreamedLayers):
            layers.close()

    def reset(self) -> None:
        """Forget everything that earlier requests left behind: the caches and the measured costs."""
        self._lane = self._new_lane()
        self._chat_lane = None if self._chat_caches else self._lane
        self._auto = AutoBudget()

    def forget(self) -> None:
        """Empty the caches, so that the next request reads its whole prompt; measured costs stay."""
        for lane in (self._lane, self._chat_lane):
            if lane:
                lane.target.reset([])
                if lane.drafter:
                    lane.drafter.reset([])
                lane.ngrams.forget()

    @property
    def context(self) -> int:
        """How many tokens prompt and completion may have together."""
        return self._lane.target.context

    def complete(self, request: CompletionRequest, cancelled: Callable[[], bool] = never) -> Iterator[CompletionChunk]:
        """Yield verified text as it comes; the last chunk says why it ended and what it cost.

        `cancelled` is asked before every layer of the target: when it turns true, or at the deadline, the text ends
        with what is verified. The engine is then ready for the next request, as it is when the caller stops iterating.
        Between two chunks other requests may be completed; the text stays the same.
        """
        clock = _Clock(request.deadline_ms)
        prompt = self.prompt(request)
        lane = self._lane_of(request)
        decoding = self._decoding(request, prompt, lane)

        def asked() -> bool:
            return cancelled() or clock.late()

        output = self._output(request, prompt)
        reader = BranchReader(self.tokenizer.token_bytes, prompt.stop_ids, prompt.required)
        undecided = request.min_confidence > 0
        while output.finish_reason is None:
            shown, owed = len(output.generated), len(output.required)
            branches: tuple[Branch, ...] = ()
            try:
                if undecided and decoding.confidence(asked) < request.min_confidence:
                    text = output.finish("declined")
                else:
                    tokens = decoding.step(output.max_tokens - shown, asked)
                    text = _push(output, tokens)
                    branches = reader.read(tokens, decoding.alternatives)
                    undecided = False
                    if tokens:
                        clock.mark(text)
            except Cancelled:
                text = output.finish("cancelled" if cancelled() else "deadline")
            new = tuple(output.generated[shown:])
            logprobs: tuple[TokenLogprob, ...] = ()
            if request.logprobs is not None and decoding.logits is not None:
                logprobs = token_logprobs(decoding.logits, new, request.logprobs, self.tokenizer.token_bytes, owed)
            if output.finish_reason is None:
                yield CompletionChunk(text, new, logprobs=logprobs, branches=branches)
            else:
                self._remember(decoding, lane)
                stats = _stats(prompt, decoding, output, clock)
                yield CompletionChunk(text, new, output.finish_reason, stats, logprobs, branches)

    def _remember(self, decoding: Decoding, lane: _Lane) -> None:
        """Let the next keystroke draft what this completion said: it has been verified once already."""
        recent = decoding.tokens[-decoding.counters.chosen - REMEMBERED :]
        lane.ngrams.remember([token for token in recent if token not in self.tokenizer.control_ids])

    def prompt(self, request: CompletionRequest) -> Prompt:
        """Lay a request out as the target's family expects, within its context."""
        if not request.messages:
            return build_prompt(request, self.tokenizer, self.layout, self.context)
        if self._template is None:
            raise TreelineError("this engine was made without a chat template: it only completes code")
        return build_chat_prompt(request, self.tokenizer, self._template, self.context)

    def logit_gap(self, request: CompletionRequest, tokens: Items[int]) -> float:
        """Return how clear the target's choice is after the prompt and `tokens`: its two best logits' difference."""
        ids = [*self.prompt(request).ids, *tokens]
        target = self._lane_of(request).target
        target.reset(ids)
        while target.prefill(ids, never):
            pass
        pending = ids[target.cache.length :]
        logits = target.run(pending, range(-1, len(pending) - 1), len(pending) - 1, never)
        target.cache.discard()
        best = logits[0].topk(2).values
        return float(best[0] - best[1])

    def _new_lane(self) -> _Lane:
        target, drafter = self._models
        return _Lane(
            Target(target), ModelDrafter(Draft(drafter, target.config.vocab_size)) if drafter else None, NgramDrafter()
        )

    def _lane_of(self, request: CompletionRequest) -> _Lane:
        if not request.messages:
            return self._lane
        self._chat_lane = self._chat_lane or self._new_lane()
        return self._chat_lane

    def _output(self, request: CompletionRequest, prompt: Prompt) -> Sequence:
        stop_ids = () if request.stop.ignore_end_tokens else prompt.stop_ids
        return Sequence(
            prompt.ids,
            self.tokenizer.token_bytes,
            stop=request.stop,
            stop_ids=stop_ids,
            max_tokens=prompt.max_new,
            required=prompt.required,
        )

    def _decoding(self, request: CompletionRequest, prompt: Prompt, lane: _Lane) -> Decoding:
        speculation = None
        if request.speculation:
            nodes = min(request.budget or self._budget or 0, self._most_nodes)
            policy = AnyCost() if nodes else self._auto
            shape = best_shape(nodes or SHAPE_NODES, SHAPE_DEPTH) if self._sequoia else None
            speculation = Speculation(lane.drafter, lane.ngrams, policy, nodes or AUTO_NODES, shape)
        return Decoding(
            lane.target,
            self.tokenizer,
            prompt.ids,
            request.sampling,
            speculation,
            prompt.required,
            keep_logits=request.logprobs is not None,
            keep_alternatives=request.branches and not self._sequoia,
        )


@dataclass(slots=True)
class _Clock:
    """When things happened since a request began, in milliseconds. `first_pass`: the prompt was read by then."""

    deadline_ms: float | None
    started: float = field(default_factory=time.perf_counter)
    first_pass: float | None = None
    first_text: float | None = None

    def now(self) -> float:
        return 1000 * (time.perf_counter() - self.started)

    def late(self) -> bool:
        return self.deadline_ms is not None and self.now() > self.deadline_ms

    def mark(self, text: str) -> None:
        now = self.now()
        self.first_pass = self.first_pass or now
        if text:
            self.first_text = self.first_text or now


def _push(output: Sequence, tokens: Items[int]) -> str:
    """Return the text of `tokens` as far as the completion goes."""
    text = ""
    for token in tokens:
        if output.finish_reason is None:
            text += output.push(token)
    return text


def _stats(prompt: Prompt, decoding: Decoding, output: Sequence, clock: _Clock) -> CompletionStats:
    total, passes, new_tokens = clock.now(), decoding.counters.target_passes, len(output.generated)
    return CompletionStats(
        prompt_tokens=len(prompt.ids),
        cached_tokens=decoding.cached_tokens,
        new_tokens=new_tokens,
        target_passes=passes,
        accepted_per_pass=new_tokens / passes if passes else 0.0,
        drafted_tokens=decoding.counters.drafted_tokens,
        prefill_ms=clock.first_pass or total,
        first_token_ms=clock.first_text or total,
        total_ms=total,
        tokens_per_second=1000 * new_tokens / total,
        peak_rss_bytes=_peak_rss(),
    )


def _peak_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
