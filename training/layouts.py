r"""Token layouts of one training sample: plain text, or fill-in-the-middle with the suffix or the prefix first.

    plain  HEAD TEXT <|endoftext|>
    SPM    HEAD <|fim_prefix|><|fim_suffix|>SUFFIX<|fim_middle|>PREFIX MIDDLE<|endoftext|>
    PSM    HEAD <|fim_prefix|>PREFIX<|fim_suffix|>SUFFIX<|fim_middle|>MIDDLE<|endoftext|>
    HEAD   [<|file_sep|>PATH\n OTHER FILE ...] [<|file_sep|>PATH\n]

The cuts fall at characters, often inside a word. In SPM order nothing stands between prefix and middle, and both are
encoded as one text: continuing is ordinary text prediction, which a small model learns from every token, and typing
only appends to the prompt, which keeps a cached prompt valid. Healing takes a word that the user has begun back to
where its token begins (`engine.tokenizer`). In PSM order the parts are encoded separately. What stops before its end,
at the end of a row or of a window, ends with <|fim_pad|>, which is never a target.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tokenizers import Tokenizer

from training.tokenizer import END_OF_TEXT, FILE_SEPARATOR, FIM_MIDDLE, FIM_PAD, FIM_PREFIX, FIM_SUFFIX


@dataclass(frozen=True, slots=True)
class SampleMix:
    """Shares of the sample kinds; each in [0, 1]."""

    fim: float = 0.5
    suffix_first: float = 0.85  # of the fill-in-the-middle samples
    header: float = 0.6  # samples that begin with <|file_sep|>PATH
    context: float = 0.25  # of the samples with a header: parts of other files of the package stand before it
    empty_suffix: float = 0.12  # of the fill-in-the-middle samples: the cursor stands at the end of the file


@dataclass(frozen=True, slots=True)
class Source:
    """A part of a file that becomes one sample; ``others``: (path, text) of parts of other files of its package."""

    path: str
    text: str
    whole: bool  # the text ends where its file ends
    others: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """A text cut at two characters: prefix [0, start), middle [start, end), suffix [end, len)."""

    start: int
    end: int


class Encoder:
    """Builds token id lists from text with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.end = _special(tokenizer, END_OF_TEXT)
        self.prefix = _special(tokenizer, FIM_PREFIX)
        self.middle = _special(tokenizer, FIM_MIDDLE)
        self.suffix = _special(tokenizer, FIM_SUFFIX)
        self.pad = _special(tokenizer, FIM_PAD)
        self.file = _special(tokenizer, FILE_SEPARATOR)

    def encode(self, text: str) -> list[int]:
        """Token ids of ordinary text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Text of token ids."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def texts(self) -> list[str]:
        """Every token's own text; empty for special tokens."""
        size = self._tokenizer.get_vocab_size()
        return [self._tokenizer.decode([i], skip_special_tokens=True) for i in range(size)]

    def header(self, path: str, text: str = "") -> list[int]:
        """Token ids of a file header, and of the file's text after it."""
        return [self.file, *self.encode(path + "\n"), *self.encode(text)]

    def prompt(self, prefix: list[int], suffix: list[int], suffix_first: bool) -> list[int]:
        """Token ids before the middle."""
        if suffix_first:
            return [self.prefix, self.suffix, *suffix, self.middle, *prefix]
        return [self.prefix, *prefix, self.suffix, *suffix, self.middle]


def _special(tokenizer: Tokenizer, name: str) -> int:
    identifier = tokenizer.token_to_id(name)
    if identifier is None:
        raise ValueError(f"the tokenizer has no {name}")
    return identifier


def line_end(text: str, position: int, lines: int = 1) -> int:
    """Offset of the ``lines``-th line end at or after ``position`` (the text's end when there are fewer)."""
    for _ in range(lines):
        found = text.find("\n", position)
        if found < 0:
            return len(text)
        position = found + 1
    return position - 1


def block_end(text: str, start: int) -> int:
    """End of the block that the line holding ``start`` opens: before the first later line of lower indentation."""
    begin = text.rfind("\n", 0, start) + 1
    line = text[begin : line_end(text, begin)]
    indent = len(line) - len(line.lstrip())
    end = line_end(text, start)
    while end < len(text):
        following = text[end + 1 : line_end(text, end + 1)]
        if following.strip() and len(following) - len(following.lstrip()) < indent:
            return end
        end = line_end(text, end + 1)
    return end


def choose_cut(text: str, rng: random.Random) -> Cut:
    """A cursor and a middle of a size that people accept: rest of a line, some lines, a block, or a random span."""
    start = rng.randrange(len(text))
    kind = rng.random()
    if kind < 0.25:  # at a line's beginning, after its indentation, or at its end
        begin = text.rfind("\n", 0, start) + 1
        indent = len(text[begin:]) - len(text[begin:].lstrip(" \t"))
        start = rng.choice((begin, begin + indent, line_end(text, begin)))
    style = rng.random()
    if style < 0.40:
        end = line_end(text, start)
        if end == start:
            end = line_end(text, start, 2)
    elif style < 0.75:
        end = line_end(text, start, rng.randint(1, 8))
    elif style < 0.88:
        end = block_end(text, start)
    else:
        end = start + int(2 ** rng.uniform(0, 9))
    return Cut(start, min(end, start + 1200, len(text)))


def build_head(encoder: Encoder, source: Source, room: int, rng: random.Random, mix: SampleMix) -> list[int]:
    """Token ids before the text: other files in at most a third of ``room``, then the file's own header; or nothing."""
    if rng.random() >= mix.header:
        return []
    head: list[int] = []
    for path, text in source.others:
        part = encoder.header(path, text)
        if len(head) + len(part) <= room // 3:
            head += part
    return head + encoder.header(source.path)


def build_sample(encoder: Encoder, source: Source, room: int, rng: random.Random, mix: SampleMix) -> list[int]:
    """Token ids of one sample, at most ``room`` of them."""
    text = source.text
    last = encoder.end if source.whole else encoder.pad
    head = build_head(encoder, source, room, rng, mix)
    room -= len(head)
    if rng.random() >= mix.fim or len(text) < 40:
        return head + [*encoder.encode(text), last][:room]
    cut = choose_cut(text, rng)
    suffix_first = rng.random() < mix.suffix_first
    prefix = encoder.encode(text[: cut.start])
    if suffix_first:
        joined = encoder.encode(text[: cut.end])
        prefix, middle = joined[: len(prefix)], joined[len(prefix) :]
    else:
        middle = encoder.encode(text[cut.start : cut.end])
    suffix = [] if rng.random() < mix.empty_suffix else encoder.encode(text[cut.end :])
    last = encoder.end if len(middle) <= room // 2 else encoder.pad
    middle = middle[: room // 2]
    room -= len(middle) + 4
    keep_suffix = min(len(suffix), max(room // 3, room - len(prefix)))
    keep_prefix = min(len(prefix), room - keep_suffix)
    prefix, suffix = prefix[len(prefix) - keep_prefix :], suffix[:keep_suffix]
    return [*head, *encoder.prompt(prefix, suffix, suffix_first), *middle, last]
