"""The tokenizer of the bundled pair: how it is trained, cut down and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.common import TrainingError
from training.data import Document
from training.tokenizer import SPECIALS, bytes_per_token, check_round_trip, smaller, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    paths = sorted((ROOT / "training").glob("*.py"))
    return [Document("p", path.name, "python", path.read_text(encoding="utf-8")) for path in paths]


def test_cutting_down_gives_what_training_fewer_entries_gives(documents: list[Document]) -> None:
    large = train(documents, 200_000, 0, 1200)
    assert json.loads(smaller(large, 700).to_str()) == json.loads(train(documents, 200_000, 0, 700).to_str())
    with pytest.raises(TrainingError, match=r"100 entries: it must be from \d+ to 1200"):
        smaller(large, 100)


def test_more_entries_make_longer_tokens(documents: list[Document]) -> None:
    large = train(documents, 200_000, 0, 1200)
    check_round_trip(large, documents)
    assert [large.token_to_id(name) for name in SPECIALS] == list(range(len(SPECIALS)))
    rates = [bytes_per_token(tokenizer, documents)["python"] for tokenizer in (smaller(large, 400), large)]
    assert 1 < rates[0] < rates[1]
