from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from engine.errors import TreelineError
from engine.request import SamplingParams
from engine.sampling import Sampler, gumbel_noise

FILTERS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7),
    SamplingParams(temperature=1.0, top_k=7),
    SamplingParams(temperature=1.3, top_k=1),
    SamplingParams(temperature=1.0, top_k=100_000),
    SamplingParams(temperature=1.0, top_p=0.9),
    SamplingParams(temperature=0.5, top_p=0.3),
    SamplingParams(temperature=2.0, top_p=0.999),
    SamplingParams(temperature=1.0, top_p=1e-6),
    SamplingParams(temperature=0.8, top_k=50, top_p=0.95),
    SamplingParams(temperature=0.8, repetition_penalty=1.3),
    SamplingParams(temperature=0.8, repetition_penalty=0.7),
    SamplingParams(temperature=0.9, top_k=40, top_p=0.8, repetition_penalty=1.1),
]


def chi_square_p(counts: np.ndarray, probs: np.ndarray) -> float:
    """P(a worse fit by chance); cells that expect fewer than 5 are pooled."""
    expected = probs * counts.sum()
    rare = expected < 5
    assert counts[probs == 0].sum() == 0
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    return float(stats.chisquare(observed, expected).pvalue)


@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_distribution_is_that_of_transformers(params: SamplingParams) -> None:
    from transformers.generation import logits_process as reference

    steps: list[reference.LogitsProcessor] = [
        reference.RepetitionPenaltyLogitsProcessor(float(params.repetition_penalty)),
        reference.TemperatureLogitsWarper(params.temperature),
    ]
    if params.top_k:
        steps.append(reference.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        steps.append(reference.TopPLogitsWarper(params.top_p))
    generator = torch.Generator().manual_seed(0)
    for spread in (0.5, 3.0, 10.0):
        logits = torch.randn(1000, generator=generator) * spread
        history = torch.randint(1000, (200,), generator=generator).tolist()
        scores = logits[None].clone()
        for step in steps:
            scores = step(torch.tensor([history]), scores)  # pyright: ignore[reportArgumentType]
        expected = scores[0].softmax(-1).numpy()
        probs = Sampler(params).distribution(logits, history)
        assert np.array_equal(probs > 0, expected > 0)
        assert np.allclose(probs, expected, rtol=1e-4, atol=1e-9)


def test_greedy_takes_the_best_and_the_lowest_of_equals() -> None:
    sampler = Sampler(SamplingParams())
    assert sampler.choose(torch.tensor([0.0, 3.0, -1.0, 3.0]), 5, []) == 1
    assert sampler.distribution(torch.tensor([0.0, 3.0, -1.0, 3.0]), []).tolist() == [0, 1, 0, 0]


def test_greedy_heeds_the_penalty_and_leaves_the_logits_alone() -> None:
    sampler = Sampler(SamplingParams(repetition_penalty=2.0))
    logits = torch.tensor([4.0, 3.0, -1.0, -1.5])
    assert sampler.choose(logits, 0, [0, 0, 2]) == 1
    assert sampler.choose(torch.tensor([-4.0, -8.0, -1.0, -1.5]), 0, [2]) == 3
    assert logits.tolist() == [4.0, 3.0, -1.0, -1.5]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_only_allowed_tokens_are_chosen(temperature: float) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1)) * 5
    allowed = torch.zeros(50, dtype=torch.bool)
    allowed[[4, 17, 30]] = True
    chosen = {
        Sampler(SamplingParams(temperature=temperature, top_p=0.99, top_k=20, seed=seed)).choose(logits, 3, [], allowed)
        for seed in range(300)
    }
    best = max((4, 17, 30), key=lambda token: float(logits[token]))
    assert best in chosen
    assert chosen <= ({best} if temperature == 0 else {4, 17, 30})


@pytest.mark.parametrize("top_k", [0, 1, 5])
@pytest.mark.parametrize("temperature", [1e-30, 1.0, 1000.0])
@pytest.mark.parametrize("penalty", [0.001, 1.0, 1000.0])
def test_the_extremes_choose_a_token(top_k: int, temperature: float, penalty: float) -> None:
    logits = torch.tensor([3.0, -2.0, 0.0, 3.0, 1.0]) * 20
    for top_p in (1e-30, 1e-9, 1.0):
        sampler = Sampler(SamplingParams(temperature, top_p, top_k, penalty))
        assert sampler.choose(logits, 3, [1, 4]) in range(5)
        assert sampler.distribution(logits, [1, 4]).sum() == pytest.approx(1)


@pytest.mark.parametrize("field", ["temperature", "repetition_penalty"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e39, -1.0])
def test_values_that_no_float32_bears_are_refused(field: str, value: float) -> None:
    with pytest.raises(TreelineError, match=f"{field} is .*: it must be from"):
        SamplingParams(**{field: value})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_a_choice_depends_on_nothing_but_its_arguments(params: SamplingParams) -> None:
    generator = torch.Generator().manual_seed(2)
    questions = []
    for position in [5, 6, 7, 7, 6, 40, 5, 900, *range(100, 130)]:
        history = torch.randint(300, (position % 50,), generator=generator).tolist()
        questions.append((torch.randn(300, generator=generator) * 3, position, history))
    fresh = [Sampler(params).choose(*question) for question in questions]
    sampler = Sampler(params)
    assert [sampler.choose(*question) for question in questions] == fresh
    assert [sampler.choose(*question) for question in reversed(questions)] == fresh[::-1]


def test_penalty_follows_a_history_that_grows_shrinks_and_changes() -> None:
    params = SamplingParams(repetition_penalty=1.5, temperature=1.0)
    logits = torch.randn(40, generator=torch.Generator().manual_seed(3))
    sampler = Sampler(params)
    for history in ([1, 2], [1, 2, 3], [1, 2, 3, *range(900, 0, -30)], [1, 2], [], [5, 2], (5, 2, 9), list(range(40))):
        history = [token % 40 for token in history]
        assert np.array_equal(sampler.distribution(logits, history), Sampler(params).distribution(logits, history))


@pytest.mark.parametrize(
    "params",
    [{"temperature": 1.0}, {"temperature": 0.6, "top_k": 9}, {"temperature": 1.5, "top_p": 0.8}],
    ids=str,
)
def test_choices_over_seeds_and_over_positions_follow_the_distribution(params: dict[str, float]) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(4)) * 2
    probs = Sampler(SamplingParams(**params)).distribution(logits, [])  # pyright: ignore[reportArgumentType]
    trials = 20_000
    seeds = np.zeros(30)
    for seed in range(trials):
        seeds[Sampler(SamplingParams(**params, seed=seed)).choose(logits, 17, [])] += 1  # pyright: ignore[reportArgumentType]
    assert chi_square_p(seeds, probs) > 1e-3
    sampler = Sampler(SamplingParams(**params, seed=12345))  # pyright: ignore[reportArgumentType]
    chosen = [sampler.choose(logits, position, []) for position in range(trials)]
    assert chi_square_p(np.bincount(chosen, minlength=30), probs) > 1e-3
    pairs = np.zeros((30, 30))
    np.add.at(pairs, (chosen[:-1], chosen[1:]), 1)
    assert chi_square_p(pairs.ravel(), np.outer(probs, probs).ravel()) > 1e-3


def test_noise_is_standard_gumbel_and_keyed_by_seed_and_position() -> None:
    noise = gumbel_noise(1, 2, 100_001)
    assert noise.shape == (100_001,)
    assert stats.kstest(noise, "gumbel_r").pvalue > 1e-3
    assert np.array_equal(noise, gumbel_noise(1, 2, 100_001))
    for other in (gumbel_noise(2, 2, 100_001), gumbel_noise(1, 3, 100_001), gumbel_noise(2**64 + 1, 2, 100_001)):
        assert abs(np.corrcoef(noise, other)[0, 1]) < 0.02


@pytest.mark.parametrize("temperature", [1e-60, 1e-30, 1e-6])
def test_a_tiny_temperature_is_nearly_greedy(temperature: float) -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(5)) * 30
    sampler = Sampler(SamplingParams(temperature=temperature, top_p=0.9))
    assert {sampler.choose(logits, position, []) for position in range(20)} == {int(logits.argmax())}
    assert np.isclose(sampler.distribution(logits, [])[int(logits.argmax())], 1)


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 30.0])
def test_leaving_out_tokens_that_cannot_win_changes_no_choice(spread: float) -> None:
    generator = torch.Generator().manual_seed(1)
    for position in range(300):
        logits = torch.randn(997, generator=generator) * spread
        logits[position] = float("-inf")
        params = SamplingParams(temperature=1.0, seed=position % 7)
        whole = (logits - logits.max()).numpy() + gumbel_noise(params.seed, position, len(logits))
        assert Sampler(params).choose(logits, position, []) == whole.argmax()
