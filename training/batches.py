"""Deterministic batches: a step's rows depend on (seed, step, worker) alone, so a resumed run sees the same data."""

from __future__ import annotations

import bisect
import itertools
import math
import random
import re
from collections import defaultdict
from dataclasses import dataclass

import torch

from training.data import Document
from training.layouts import Encoder, SampleMix, Source, build_sample

_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, cover [0, 1) evenly
_CHARS_PER_TOKEN = 3.4  # rough; build_sample cuts to the exact number of tokens
_SLOTS = 64  # samples a row may hold
_OTHER_CHARS = 1200  # of another file, as context
_TRIES = 6  # places looked at for the part of another file that shares most with the sample
_NAME = re.compile(r"[A-Za-z_]\w{3,}")


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents with the running total of their weights, to pick one in proportion to its weight.

    A package weighs the square root of its length, each of its documents a share by length: what a few large packages
    have among themselves (names, idioms) says little about code elsewhere.
    """

    documents: list[Document]
    ends: list[float]
    packages: dict[str, list[Document]]

    @classmethod
    def of(cls, documents: list[Document]) -> Corpus:
        """Index the documents."""
        packages: dict[str, list[Document]] = defaultdict(list)
        for document in documents:
            packages[document.package].append(document)
        roots = {name: math.sqrt(sum(len(d.text) for d in each)) for name, each in packages.items()}
        ends = list(itertools.accumulate(len(document.text) / roots[document.package] for document in documents))
        return cls(documents, ends, packages)

    def locate(self, fraction: float) -> tuple[Document, int]:
        """The document at the place ``fraction`` in [0, 1) of all weight, and the position in its text."""
        place = fraction * self.ends[-1]
        index = min(bisect.bisect_right(self.ends, place), len(self.documents) - 1)
        document, begin = self.documents[index], self.ends[index - 1] if index else 0.0
        position = int((place - begin) / (self.ends[index] - begin) * len(document.text))
        return document, min(position, len(document.text) - 1)

    def others(self, document: Document, text: str, rng: random.Random) -> tuple[tuple[str, str], ...]:
        """Parts of one to three other files of the package that share names with ``text``: what an editor shows.

        The closest comes last, as the language server orders them.
        """
        siblings = [d for d in self.packages[document.package] if d is not document]
        if not siblings:
            return ()
        names = set(_NAME.findall(text))
        found: list[tuple[int, str, str]] = []
        for sibling in rng.choices(siblings, k=_TRIES):
            part = excerpt(sibling.text, rng.randrange(len(sibling.text)), _OTHER_CHARS)
            found.append((len(names & set(_NAME.findall(part))), sibling.path, part))
        best = sorted(found)[-rng.randint(1, 3) :]
        return tuple((path, part) for _, path, part in best)


def excerpt(text: str, position: int, characters: int) -> str:
    """About ``characters`` of whole lines around a position; all lines end."""
    begin = max(0, min(position - characters // 2, len(text) - characters))
    begin = text.rfind("\n", 0, begin) + 1 if begin else 0
    part = text[begin : begin + characters]
    return part if begin + characters >= len(text) and part.endswith("\n") else part[: part.rfind("\n") + 1]


class BatchSource:
    """Packs whole samples into rows of fixed length."""

    def __init__(
        self, corpus: Corpus, encoder: Encoder, seed: int, rollouts: torch.Tensor | None = None, share: float = 0.0
    ) -> None:
        """``share`` of the rows come from ``rollouts``, int [rows, length], instead of the corpus."""
        self._corpus = corpus
        self._rollouts, self._share = rollouts, share
        self._encoder = encoder
        self._seed = seed
        self._offset = random.Random(seed).random()

    def row(self, number: int, length: int, mix: SampleMix) -> list[int]:
        """``length + 1`` token ids made of samples; only the last, plain sample may be cut."""
        rng = random.Random(self._seed * 1_000_003 + number)
        ids: list[int] = []
        if self._rollouts is not None and rng.random() < self._share:
            while len(ids) <= length:
                ids += self._rollouts[rng.randrange(len(self._rollouts))].tolist()
            return ids[: length + 1]
        slot = 0
        while (room := length + 1 - len(ids)) > 0:
            counter = number * _SLOTS + slot
            slot += 1
            want = int(length * 2 ** rng.uniform(-2.5, 0.1))
            characters = int(min(want, max(room, 64)) * _CHARS_PER_TOKEN)
            source = self._source((counter * _GOLDEN + self._offset) % 1.0, characters, rng, mix)
            if room < 64:  # too little for a header or a middle
                last = self._encoder.end if source.whole else self._encoder.pad
                ids += [*self._encoder.encode(source.text), last][:room]
            else:
                ids += build_sample(self._encoder, source, room, rng, mix)
        return ids

    def _source(self, fraction: float, characters: int, rng: random.Random, mix: SampleMix) -> Source:
        """About ``characters`` from a line's start, around a corpus position; sometimes with parts of other files."""
        document, position = self._corpus.locate(fraction)
        text = document.text
        begin = max(0, min(position - characters // 2, len(text) - characters))
        begin = text.rfind("\n", 0, begin) + 1 if begin else 0
        window = text[begin : begin + characters]
        others = self._corpus.others(document, window, rng) if rng.random() < mix.context else ()
        return Source(document.path, window, begin + characters >= len(text), others)

    def batch(
        self, step: int, worker: int, workers: int, rows: int, length: int, mix: SampleMix
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, each int64 [rows, length]."""
        first = (step * workers + worker) * rows
        ids = torch.tensor([self.row(first + r, length, mix) for r in range(rows)])
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
