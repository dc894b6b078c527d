"""Deterministic batches: a step's rows depend on (seed, step, worker) alone, so a resumed run sees the same data."""

from __future__ import annotations

import bisect
import random
from dataclasses import dataclass

import torch

from training.data import Document
from training.layouts import Encoder, SampleMix, build_sample

_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, cover [0, 1) evenly
_CHARS_PER_TOKEN = 3.4  # rough; build_sample cuts to the exact number of tokens
_SLOTS = 64  # samples a row may hold


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents with the running total of their lengths, to pick one in proportion to its length."""

    documents: list[Document]
    ends: list[int]

    @classmethod
    def of(cls, documents: list[Document]) -> Corpus:
        """Index the documents."""
        ends: list[int] = []
        total = 0
        for document in documents:
            total += len(document.text)
            ends.append(total)
        return cls(documents, ends)

    def window(self, fraction: float, characters: int) -> tuple[str, str, bool]:
        """(path, text, whether it ends the file), from a line's start.

        About ``characters`` around the corpus position ``fraction`` in [0, 1).
        """
        position = int(fraction * self.ends[-1])
        index = bisect.bisect_right(self.ends, position)
        document = self.documents[index]
        text = document.text
        offset = position - (self.ends[index] - len(text))
        begin = max(0, min(offset - characters // 2, len(text) - characters))
        begin = text.rfind("\n", 0, begin) + 1 if begin else 0
        return document.path, text[begin : begin + characters], begin + characters >= len(text)


class BatchSource:
    """Packs whole samples into rows of fixed length."""

    def __init__(self, corpus: Corpus, encoder: Encoder, seed: int) -> None:
        self._corpus = corpus
        self._encoder = encoder
        self._seed = seed
        self._offset = random.Random(seed).random()

    def row(self, number: int, length: int, mix: SampleMix) -> list[int]:
        """``length + 1`` token ids made of samples; only the last, plain sample may be cut."""
        rng = random.Random(self._seed * 1_000_003 + number)
        ids: list[int] = []
        slot = 0
        while (room := length + 1 - len(ids)) > 0:
            counter = number * _SLOTS + slot
            slot += 1
            fraction = (counter * _GOLDEN + self._offset) % 1.0
            want = int(length * 2 ** rng.uniform(-2.5, 0.1))
            path, text, whole = self._corpus.window(fraction, int(min(want, max(room, 64)) * _CHARS_PER_TOKEN))
            if room < 64:  # too little for a header or a middle
                last = self._encoder.end if whole or not mix.pad_cuts else self._encoder.pad
                ids += [*self._encoder.encode(text), last][:room]
            else:
                ids += build_sample(self._encoder, path, text, whole, room, rng, mix)
        return ids

    def batch(
        self, step: int, worker: int, workers: int, rows: int, length: int, mix: SampleMix
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, each int64 [rows, length]."""
        first = (step * workers + worker) * rows
        ids = torch.tensor([self.row(first + r, length, mix) for r in range(rows)])
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
