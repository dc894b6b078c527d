"""Line completion on held-out files: cursors at whole lines, inside lines, inside words; greedy, exact match."""

from __future__ import annotations

import io
import random
import tokenize
from dataclasses import dataclass
from typing import Any

import torch

from training.data import Document
from training.layouts import Encoder, line_end

KINDS = ("whole-line", "mid-line", "mid-token")
PREFIX_TOKENS, SUFFIX_TOKENS, NEW_TOKENS = 900, 250, 48
_MIN_EXPECTED = 4  # characters left on the line


@dataclass(frozen=True, slots=True)
class LineCase:
    """A cursor in a file; ``expected`` is the rest of its line."""

    kind: str
    path: str
    prefix: str
    suffix: str
    expected: str


def cursors(text: str) -> dict[str, list[int]]:
    """Offsets of possible cursors by kind, on lines of code (neither comments nor the inside of strings)."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    previous = 0
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return found
    for token in tokens:
        if token.type not in (tokenize.NAME, tokenize.OP, tokenize.NUMBER):
            continue
        row, column = token.start
        offset = starts[row - 1] + column
        if row != previous:
            previous = row
            if not text[starts[row - 1] : offset].strip():
                found["whole-line"].append(offset)
        else:
            found["mid-line"].append(offset)
        if token.type == tokenize.NAME and len(token.string) >= 4:
            found["mid-token"].append(offset + max(2, len(token.string) // 2))
    return found


def make_cases(documents: list[Document], per_kind: int, seed: int) -> list[LineCase]:
    """``per_kind`` cases of each kind, drawn without replacement over all documents."""
    rng = random.Random(seed)
    pools: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    for index, document in enumerate(documents):
        for kind, offsets in cursors(document.text).items():
            for offset in offsets:
                if len(document.text[offset : line_end(document.text, offset)].strip()) >= _MIN_EXPECTED:
                    pools[kind].append((index, offset))
    cases: list[LineCase] = []
    for kind, pool in pools.items():
        for index, offset in rng.sample(pool, min(per_kind, len(pool))):
            text, end = documents[index].text, line_end(documents[index].text, offset)
            cases.append(LineCase(kind, documents[index].path, text[:offset], text[end:], text[offset:end]))
    return cases


def prompt_ids(encoder: Encoder, case: LineCase) -> list[int]:
    """The suffix-first prompt of a case, with the file header."""
    prefix = encoder.encode(case.prefix[-PREFIX_TOKENS * 8 :])[-PREFIX_TOKENS:]
    suffix = encoder.encode(case.suffix[: SUFFIX_TOKENS * 8])[:SUFFIX_TOKENS]
    return [*encoder.header(case.path), *encoder.prompt(prefix, suffix, suffix_first=True)]


@torch.inference_mode()
def complete_line(model: Any, encoder: Encoder, vocabulary: list[str], ids: list[int]) -> str:
    """Greedy continuation up to the first line break, end of text, or 48 tokens.

    Token healing: the prompt's last token is taken back, unless it is a line break with its indentation, and the first
    new tokens must spell it again. A word or a blank that the cursor cut off is thus read as training text has it.
    """
    typed = vocabulary[ids[-1]]
    if "\n" in typed:
        typed = ""
    kept = ids[:-1] if typed else ids
    cache, feed, produced, pending = None, torch.tensor([kept]), list[int](), typed
    for _ in range(NEW_TOKENS):
        output = model(feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = output.past_key_values, output.logits[0, -1]
        if pending:
            fitting = [i for i, text in enumerate(vocabulary) if text and spells(text, pending)]
            token = fitting[int(logits[fitting].argmax())]
            pending = pending[len(vocabulary[token]) :]
        else:
            token = int(logits.argmax())
        if token == encoder.end:
            break
        produced.append(token)
        if "\n" in vocabulary[token]:
            break
        feed = torch.tensor([[token]])
    return encoder.decode(produced)[len(typed) :].split("\n")[0]


def spells(text: str, pending: str) -> bool:
    """Whether a token's text begins ``pending`` or extends it."""
    return text.startswith(pending) or pending.startswith(text)


def line_exact_match(model: Any, encoder: Encoder, cases: list[LineCase]) -> dict[str, tuple[int, int]]:
    """(matches, cases) by kind; trailing blanks are ignored."""
    score: dict[str, tuple[int, int]] = {case.kind: (0, 0) for case in cases}
    vocabulary = encoder.texts()
    for case in cases:
        text = complete_line(model, encoder, vocabulary, prompt_ids(encoder, case))
        matches, total = score[case.kind]
        score[case.kind] = (matches + (text.rstrip() == case.expected.rstrip()), total + 1)
    return score
