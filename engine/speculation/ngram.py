"""Prompt lookup (Saxena 2023): draft what followed the last tokens when they occurred before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.speculation.tree import TokenTree

_SHORTEST, _LONGEST = 2, 16  # match lengths, in tokens
_RATE = 0.05  # weight of one new observation in a running acceptance
_LOWEST, _HIGHEST = 0.02, 0.98  # bounds of a running acceptance, so that it can always recover
_BREAK = chr(0x10FFFF)  # between unrelated texts; no vocabulary is that large


@dataclass(frozen=True, slots=True)
class _Proposal:
    chain: list[int]
    match: int  # how many tokens before the chain matched


class NgramDrafter:
    """Drafts by copying from the context and from remembered text; keeps no index.

    All text is one Python string, a character per token, because `str.rfind` passes over thousands of tokens in a
    microsecond or two. A copied token is as probable as tokens after matches of its length have lately proved to be.

    Per step: `propose` into the tree, verify, `extend` with the emitted tokens.
    """

    def __init__(self, memory_limit: int = 16384) -> None:
        """`memory_limit`: how many remembered tokens are kept, the latest."""
        self._memory_limit = memory_limit
        self._text = _BREAK  # memory, a break, context
        self._context_start = 1
        self._proposals: list[_Proposal] = []
        self._acceptance = _prior()

    def reset(self, tokens: Sequence[int]) -> None:
        """Make `tokens` the context: prompt and output so far, the tree's root token last. Memory stays."""
        self._text = self._text[: self._context_start] + _encode(tokens)
        self._proposals.clear()

    def extend(self, tokens: Sequence[int]) -> None:
        """Append emitted tokens to the context, and learn from them how good this step's proposals were."""
        for proposal in self._proposals:
            self._learn(proposal, tokens)
        self._proposals.clear()
        self._text += _encode(tokens)

    def remember(self, tokens: Sequence[int]) -> None:
        """Copy from this text too from now on: another file, or a completion that was accepted."""
        memory, context = self._text[: self._context_start], self._text[self._context_start :]
        memory = (memory + _encode(tokens) + _BREAK)[-self._memory_limit - 1 :]
        self._text, self._context_start = memory + context, len(memory)

    def forget(self) -> None:
        """Drop what was remembered and what was learned; the context stays."""
        self._text = _BREAK + self._text[self._context_start :]
        self._context_start = 1
        self._acceptance = _prior()

    def acceptance(self, match: int) -> float:
        """Running estimate of P(a copied token is the target's choice) when `match` tokens before it agree."""
        return self._acceptance[min(match, _LONGEST)]

    def propose(self, tree: TokenTree, length: int = 10, min_probability: float = 0.02) -> int:
        """Add up to two chains of at most `length` tokens under the root; returns how many tokens they hold.

        The first chain follows the latest of the longest matches, the second the longest match that was followed by
        a different token. A chain ends before its cumulative probability falls under `min_probability`.
        """
        lowest = math.log(min_probability)
        proposed = 0
        for match, copied in self._matches(length):
            parent, score, kept = 0, 0.0, 0
            chain = list(map(ord, copied))
            for token in chain:
                score += math.log(self._acceptance[min(match + kept, _LONGEST)])
                if score < lowest:
                    break
                parent = tree.add(parent, token, score)
                kept += 1
            # One token more than was proposed: it is evidence too, and lets an estimate recover that fell too low.
            self._proposals.append(_Proposal(chain[: kept + 1], match))
            proposed += kept
        return proposed

    def _matches(self, length: int) -> list[tuple[int, str]]:
        """(match length, what followed it) of at most two matches with different first tokens, the best first."""
        text = self._text
        found: list[tuple[int, str]] = []
        for match, start in reversed(_search(text, text[max(self._context_start, len(text) - _LONGEST) :])):
            copied = text[start : start + length].partition(_BREAK)[0]
            if not copied or (found and copied[0] == found[0][1][0]):
                continue
            if start + len(copied) == len(text):  # the copy runs into its own beginning: it goes on periodically
                copied = (copied * length)[:length]
            found.append((match, copied))
            if len(found) == 2:
                break
        return found

    def _learn(self, proposal: _Proposal, emitted: Sequence[int]) -> None:
        for offset, (token, truth) in enumerate(zip(proposal.chain, emitted, strict=False)):
            bucket = min(proposal.match + offset, _LONGEST)
            value = self._acceptance[bucket] + _RATE * ((token == truth) - self._acceptance[bucket])
            self._acceptance[bucket] = min(max(value, _LOWEST), _HIGHEST)
            if token != truth:
                return


def _search(text: str, tail: str) -> list[tuple[int, int]]:
    """(match length, index after the match) for each length of `tail`, shortest first: its latest earlier occurrence.

    A longer match ends no later than the latest shorter one, so that all lengths together pass over the text once.
    """
    hits: list[tuple[int, int]] = []
    end = len(text) - 1  # something must follow
    for match in range(_SHORTEST, len(tail) + 1):
        start = text.rfind(tail[-match:], 0, end)
        if start < 0:
            break
        end = start + match
        hits.append((match, end))
    return hits


def _encode(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


def _prior() -> list[float]:
    """Acceptance by match length before anything was seen: measured on the standard library, 0.50 at 2, 0.91 at 16."""
    return [0.45 + 0.0275 * match for match in range(_LONGEST + 1)]
