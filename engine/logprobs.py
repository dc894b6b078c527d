"""How probable the target found the tokens that it chose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from engine.request import TokenLogprob


def token_logprobs(
    logits: Tensor, tokens: Sequence[int], alternatives: int, bytes_of: Callable[[int], bytes]
) -> tuple[TokenLogprob, ...]:
    """Describe `tokens`, each chosen from one row of `logits` [at least len(tokens), vocab], and its best rivals."""
    rows = logits[: len(tokens)].float().log_softmax(-1)
    best = rows.topk(min(alternatives, rows.shape[1]))

    def describe(row: int, token: int) -> TokenLogprob:
        return TokenLogprob(token, bytes_of(token), float(rows[row, token]))

    return tuple(
        TokenLogprob(
            token,
            bytes_of(token),
            float(rows[row, token]),
            tuple(describe(row, int(rival)) for rival in best.indices[row]),
        )
        for row, token in enumerate(tokens)
    )
