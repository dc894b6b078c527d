"""Write training rows, in the model's own layouts, as the .jsonl that `treeline quantize --calibration` reads."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from training.batches import BatchSource, Corpus
from training.common import TrainingError, default_cache, progress
from training.data import read_split
from training.layouts import SampleMix
from training.trainer import load_encoder

_LENGTH = 512
_FIRST_ROW = 10_000_000  # no training run comes this far


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.calibration", description=__doc__)
    parser.add_argument("out", type=Path, help=".jsonl file to write")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=160, help="rows of 512 tokens (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    try:
        encoder = load_encoder(a.cache)
        source = BatchSource(Corpus.of(read_split(a.cache, "train")), encoder, a.seed)
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    rows = (source.row(_FIRST_ROW + number, _LENGTH - 1, SampleMix()) for number in range(a.rows))
    a.out.write_text("".join(json.dumps({"text": encoder.decode(row)}) + "\n" for row in rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
