"""How probable the target found the tokens that it chose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from engine.request import TokenLogprob


def token_logprobs(
    logits: Tensor, tokens: Sequence[int], alternatives: int, bytes_of: Callable[[int], bytes], owed: int
) -> tuple[TokenLogprob, ...]:
    """Describe `tokens`, each chosen from one row of `logits` [at least len(tokens), vocab], and its best rivals.

    `owed`: how many bytes, from the first token's first on, repeat what stands before the cursor.
    """
    rows = logits[: len(tokens)].float().log_softmax(-1)
    best = rows.topk(min(alternatives, rows.shape[1]))

    def describe(row: int, token: int) -> TokenLogprob:
        return TokenLogprob(token, bytes_of(token), float(rows[row, token]))

    described: list[TokenLogprob] = []
    for row, token in enumerate(tokens):
        rivals = tuple(describe(row, int(rival)) for rival in best.indices[row])
        chosen = describe(row, token)
        typed = min(owed, len(chosen.spelling))
        owed -= typed
        described.append(replace(chosen, alternatives=rivals, typed=typed))
    return tuple(described)
