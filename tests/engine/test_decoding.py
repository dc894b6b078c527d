"""Whatever guesses, however many, wherever from: the tokens are those of decoding one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import CONTEXT, PairPaths
from scipy.stats import chisquare
from torch import Tensor

from engine.decoding import Decoding, Speculation
from engine.errors import Cancelled
from engine.model.loader import LoadOptions, load_transformer
from engine.model.transformer import Transformer, never
from engine.request import SamplingParams
from engine.roles import Draft, Target
from engine.sampling import Sampler
from engine.speculation.budget import AutoBudget
from engine.speculation.drafter import Asked, Branches, ModelDrafter
from engine.speculation.frontier import AnyCost
from engine.speculation.ngram import NgramDrafter
from engine.speculation.static import best_shape
from engine.speculation.tree import TokenTree
from engine.tokenizer import Tokenizer

SAMPLING = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.0, 0.8, 1.5]),
    top_p=st.sampled_from([1.0, 0.9]),
    top_k=st.sampled_from([0, 20]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 1000),
)
PROMPTS = st.lists(st.integers(1, 400), min_size=1, max_size=40)


@dataclass(frozen=True, slots=True)
class Pair:
    """A loaded pair."""

    target: Transformer
    drafter: Transformer
    tokenizer: Tokenizer

    def decode(
        self,
        prompt: Sequence[int],
        count: int,
        sampling: SamplingParams,
        speculation: Speculation | None = None,
        target: Target | None = None,
        required: bytes = b"",
    ) -> list[int]:
        """Decode `count` tokens in a fresh cache, or in the one of `target`."""
        decoding = Decoding(target or Target(self.target), self.tokenizer, prompt, sampling, speculation, required)
        produced: list[int] = []
        while len(produced) < count:
            produced += decoding.step(count - len(produced), never)
        return produced[:count]

    def model_drafter(self) -> ModelDrafter:
        """A drafter with an empty cache."""
        return ModelDrafter(Draft(self.drafter, self.target.config.vocab_size))


def _load(paths: PairPaths, awq: bool) -> Pair:
    target = load_transformer(paths.awq if awq else paths.target, LoadOptions())
    return Pair(target, load_transformer(paths.target, LoadOptions(guesses=True)), Tokenizer.load(paths.target))


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "int4"])
def pair(request: pytest.FixtureRequest, pair_paths: PairPaths) -> Pair:
    """The float32 target, and the AWQ one on the integer kernels, whose rows do not depend on their neighbours."""
    return _load(pair_paths, request.param)


class RandomModel:
    """A drafter that guesses at random: nothing it says may change the output."""

    context = 1 << 20

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._rows = 0

    def read(self, tokens: Sequence[int], cancelled: Asked) -> int:
        return 0

    def branch(
        self, tokens: Sequence[int], parents: Sequence[int], wanted: int, count: int, cancelled: Asked
    ) -> Branches:
        self._rows += len(tokens)
        guesses = [self._rng.sample(range(1, 400), count) for _ in range(wanted)]
        return Branches(guesses, [[-0.5 * (i + 1) for i in range(count)] for _ in guesses])

    def commit(self, rows: Sequence[int]) -> None:
        self._rows = 0

    def truncate(self, length: int) -> None:
        self._rows = 0

    def logits(
        self, tokens: Sequence[int], parents: Sequence[int], wanted: int, cancelled: Asked
    ) -> tuple[int, Tensor]:
        raise AssertionError("only Sequoia's drafting asks for logits")


@settings(max_examples=25)
@given(prompt=PROMPTS, sampling=SAMPLING, nodes=st.integers(1, 40), seed=st.integers(0, 99))
def test_speculation_changes_nothing(
    pair: Pair, prompt: list[int], sampling: SamplingParams, nodes: int, seed: int
) -> None:
    plain = pair.decode(prompt, 16, sampling)
    sources = (
        Speculation(pair.model_drafter(), NgramDrafter(), AnyCost(), nodes),
        Speculation(ModelDrafter(RandomModel(seed)), NgramDrafter(), AnyCost(), nodes),
        Speculation(None, NgramDrafter(), AutoBudget(), 64),
        Speculation(pair.model_drafter(), NgramDrafter(), AutoBudget(), 64),
    )
    for speculation in sources:
        assert pair.decode(prompt, 16, sampling, speculation) == plain


@settings(max_examples=10)
@given(prompt=PROMPTS, sampling=SAMPLING, nodes=st.integers(1, 20))
def test_drafting_ahead_changes_nothing(pair: Pair, prompt: list[int], sampling: SamplingParams, nodes: int) -> None:
    streamed = replace(pair.target, streamed=True)
    for drafter in (pair.model_drafter(), ModelDrafter(RandomModel(nodes))):
        speculation = Speculation(drafter, NgramDrafter(), AnyCost(), nodes)
        assert pair.decode(prompt, 16, sampling, speculation, Target(streamed)) == pair.decode(prompt, 16, sampling)


class CountingModel(RandomModel):
    """A drafter that is nearly sure that the next token is one more than the last, and counts what it is asked."""

    passes = 0

    def branch(
        self, tokens: Sequence[int], parents: Sequence[int], wanted: int, count: int, cancelled: Asked
    ) -> Branches:
        self.passes += 1
        last = tokens[len(tokens) - wanted :]
        return Branches([[token + 1, 7] for token in last], [[-0.01, -5.0] for _ in last])


def test_what_was_drafted_ahead_starts_the_next_tree() -> None:
    model = CountingModel(0)
    drafter = ModelDrafter(model)
    tree = TokenTree(100)
    drafter.grow(tree, [100], AnyCost(), 2, 8, never)
    verified = list(tree.tokens)
    assert tree.prune(2).tokens == [100, 101, 102]
    drafter.extend(12, 20, never)
    assert tree.tokens == verified, "the tree that is being verified must not change"
    drafter.accept([101, 102, 103])
    following, before = TokenTree(103), model.passes
    drafter.grow(following, [100, 101, 102, 103], AnyCost(), 8, 8, never)
    assert set(following.tokens) > {103, 104, 105, 106, 107, 108, 109}
    assert model.passes - before < 4, "one pass a level would be eight"
    drafter.accept([7])
    other = TokenTree(7)
    drafter.grow(other, [100, 101, 102, 103, 7], AnyCost(), 3, 8, never)
    assert other.tokens[:2] == [7, 8], "what was guessed elsewhere is forgotten"


def test_a_drafter_of_a_shorter_context_is_left_out_beyond_it(pair: Pair) -> None:
    model = RandomModel(1)
    model.context = 12
    speculation = Speculation(ModelDrafter(model), NgramDrafter(), AnyCost(), 4)
    prompt = list(range(5, 14))
    assert pair.decode(prompt, 12, SamplingParams(), speculation) == pair.decode(prompt, 12, SamplingParams())


def test_good_guesses_save_passes(pair: Pair) -> None:
    """The float32 target drafts for itself, or for its int4 copy."""
    speculation = Speculation(pair.model_drafter(), NgramDrafter(), AnyCost(), 16)
    decoding = Decoding(Target(pair.target), pair.tokenizer, [5, 6, 7], SamplingParams(), speculation)
    while decoding.counters.chosen < 40:
        decoding.step(40, never)
    assert decoding.counters.target_passes < 20


@settings(max_examples=15)
@given(first=PROMPTS, second=PROMPTS, shared=st.integers(0, 40), sampling=SAMPLING)
def test_what_is_cached_changes_nothing(
    pair: Pair, first: list[int], second: list[int], shared: int, sampling: SamplingParams
) -> None:
    speculation = Speculation(pair.model_drafter(), NgramDrafter(), AnyCost(), 8)
    target = Target(pair.target)
    pair.decode(first, 8, sampling, speculation, target)
    again = first[:shared] + second
    assert pair.decode(again, 8, sampling, speculation, target) == pair.decode(again, 8, sampling)


def test_only_what_differs_is_computed_again(pair: Pair) -> None:
    target = Target(pair.target)
    prompt = list(range(1, 101))
    output = pair.decode(prompt, 8, SamplingParams(), target=target)
    assert Decoding(target, pair.tokenizer, prompt + output[:4], SamplingParams(), None).cached_tokens == 103
    assert Decoding(target, pair.tokenizer, [*prompt[:50], 300, *prompt], SamplingParams(), None).cached_tokens == 50
    assert Decoding(target, pair.tokenizer, prompt[:20], SamplingParams(), None).cached_tokens == 19


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_cancelling_before_any_layer_leaves_no_trace(pair: Pair, layer: int) -> None:
    prompt, sampling = list(range(30, 60)), SamplingParams()
    speculation = Speculation(pair.model_drafter(), NgramDrafter(), AnyCost(), 8)
    target = Target(pair.target)
    decoding = Decoding(target, pair.tokenizer, prompt, sampling, speculation)
    decoding.step(16, never)
    kept = list(decoding.tokens)
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > layer

    with pytest.raises(Cancelled):
        decoding.step(16, cancelled)
    assert asked == layer + 1
    assert decoding.tokens == kept
    assert pair.decode(prompt, 12, sampling, speculation, target) == pair.decode(prompt, 12, sampling)


def test_cancelling_a_long_prompt_keeps_what_was_read(pair: Pair) -> None:
    target = Target(pair.target)
    target.prefill_rows = 64
    prompt = [1 + i % 400 for i in range(300)]
    decoding = Decoding(target, pair.tokenizer, prompt, SamplingParams(), None)
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 7  # three layers a pass: in the middle of the third

    assert [decoding.step(1, cancelled), decoding.step(1, cancelled)] == [[], []]
    with pytest.raises(Cancelled):
        decoding.step(1, cancelled)
    assert Decoding(target, pair.tokenizer, prompt, SamplingParams(), None).cached_tokens == 128
    assert pair.decode(prompt, 4, SamplingParams(), target=target) == pair.decode(prompt, 4, SamplingParams())


@settings(max_examples=10)
@given(sampling=SAMPLING, interruptions=st.lists(st.integers(0, 6), max_size=4))
def test_another_completion_may_come_between_any_two_steps(
    pair: Pair, sampling: SamplingParams, interruptions: list[int]
) -> None:
    """While the prompt is read, and later."""
    target = Target(pair.target)
    target.prefill_rows = 16
    prompt, other = [1 + i % 400 for i in range(60)], [1 + i % 400 for i in range(40)] + [7, 8, 9]
    speculation = Speculation(pair.model_drafter(), NgramDrafter(), AnyCost(), 8)
    decoding = Decoding(target, pair.tokenizer, prompt, sampling, speculation)
    produced: list[int] = []
    step = 0
    while len(produced) < 12:
        if step in interruptions:
            pair.decode(other, 6, sampling, speculation, target)
        produced += decoding.step(12 - len(produced), never)
        step += 1
    assert produced[:12] == pair.decode(prompt, 12, sampling)


@settings(max_examples=10)
@given(sampling=SAMPLING, data=st.data())
def test_the_output_begins_with_the_required_bytes(pair: Pair, sampling: SamplingParams, data: st.DataObject) -> None:
    required = data.draw(st.sampled_from([b"pri", b"self.", b"\n    re", b"\xc3"]))
    speculation = Speculation(pair.model_drafter(), NgramDrafter(), AnyCost(), 8)
    output = pair.decode([9, 8, 7], 12, sampling, speculation, required=required)
    assert output == pair.decode([9, 8, 7], 12, sampling, required=required)
    assert b"".join(map(pair.tokenizer.token_bytes, output)).startswith(required)


def test_the_context_may_be_filled_to_its_last_position(pair: Pair) -> None:
    prompt = [1 + i % 400 for i in range(CONTEXT - 6)]
    speculation = Speculation(pair.model_drafter(), NgramDrafter(), AnyCost(), 64)
    assert pair.decode(prompt, 6, SamplingParams(), speculation) == pair.decode(prompt, 6, SamplingParams())


def test_sequoia_accepts_every_first_draw_of_a_drafter_that_equals_the_target(pair_paths: PairPaths) -> None:
    target = load_transformer(pair_paths.target, LoadOptions())
    tokenizer = Tokenizer.load(pair_paths.target)
    drafter = ModelDrafter(Draft(load_transformer(pair_paths.target, LoadOptions()), target.config.vocab_size))
    speculation = Speculation(drafter, NgramDrafter(), AnyCost(), 6, best_shape(6, 3))
    decoding = Decoding(Target(target), tokenizer, [5, 6, 7], SamplingParams(temperature=0.9, seed=3), speculation)
    for _ in range(8):
        decoding.step(64, never)
    assert decoding.counters.chosen == 8 * 4  # three levels, and the bonus token


def test_sequoia_follows_the_distribution_of_the_target(pair: Pair) -> None:
    """Of the second token given the most usual first one: it is drafted, unlike the first, under a drawn parent."""
    sampling = SamplingParams(temperature=1.0, top_k=4)
    target, drafter = Target(pair.target), pair.model_drafter()
    pairs: Counter[tuple[int, int]] = Counter()
    for seed in range(800):
        speculation = Speculation(drafter, NgramDrafter(), AnyCost(), 5, best_shape(5, 3))
        drawn = pair.decode([5, 6, 7], 2, replace(sampling, seed=seed), speculation, target)
        pairs[drawn[0], drawn[1]] += 1
    first = Counter({token: sum(n for (a, _), n in pairs.items() if a == token) for token, _ in pairs})
    token, total = first.most_common(1)[0]
    logits = target_logits(pair, [5, 6, 7, token])
    expected = Sampler(sampling).distribution(logits, ())
    observed = [pairs[token, int(other)] for other in expected.nonzero()[0]]
    assert sum(observed) == total
    assert chisquare(observed, total * expected[expected > 0]).pvalue > 1e-3


def target_logits(pair: Pair, tokens: list[int]) -> Tensor:
    """Logits [vocab] after `tokens`."""
    return Target(pair.target).run(tokens, range(-1, len(tokens) - 1), len(tokens) - 1, never)[0]


@settings(max_examples=10)
@given(prompt=PROMPTS, sampling=SAMPLING, seed=st.integers(0, 99))
def test_alternatives_continue_as_decoding_one_by_one_would(
    pair: Pair, prompt: list[int], sampling: SamplingParams, seed: int
) -> None:
    guesses = Speculation(ModelDrafter(RandomModel(seed)), NgramDrafter(), AnyCost(), 12)
    decoding = Decoding(Target(pair.target), pair.tokenizer, prompt, sampling, guesses, keep_alternatives=True)
    for _ in range(3):
        before = list(decoding.tokens)
        chosen = decoding.step(16, never)
        assert decoding.alternatives
        logprobs = [logprob for _, logprob in decoding.alternatives]
        assert logprobs == sorted(logprobs, reverse=True)
        assert max(logprobs) <= 0
        for each, _ in decoding.alternatives[:3]:
            stem = [*before, *chosen[: each.depth], each.tokens[0]]
            assert each.tokens[1:] == pair.decode(stem, len(each.tokens) - 1, sampling)


def test_asking_the_drafter_first_changes_nothing(pair: Pair) -> None:
    prompt = list(range(5, 45))
    sources = Speculation(pair.model_drafter(), NgramDrafter(), AnyCost(), 8)
    decoding = Decoding(Target(pair.target), pair.tokenizer, prompt, SamplingParams(), sources)
    confidence = decoding.confidence(never)
    assert 0 < confidence <= 1
    assert confidence == pytest.approx(decoding.confidence(never))
    tokens: list[int] = []
    while len(tokens) < 12:
        tokens += decoding.step(12 - len(tokens), never)
    assert tokens[:12] == pair.decode(prompt, 12, SamplingParams())
