"""Text that shows a quantiser what a model reads; and perplexity, on a part of it that the quantiser is not shown."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from torch.nn.functional import cross_entropy

from engine.errors import TreelineError
from engine.model.loader import LoadOptions, load_transformer

ROW = 512  # tokens
LEAST_ROWS = 16  # to calibrate with
JUDGED_SHARE = 8  # one row in so many is kept back to judge by
PIECE = 250_000  # characters that are read at a time, and at most of each of several files
SHORT = 2000  # bytes; what is shorter in Python's library says little
PYTHON = "the source of Python's standard library"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rows of 512 token ids; `judged` are not shown to the quantiser."""

    shown: list[list[int]]
    judged: list[list[int]]
    origin: str


def read_calibration(tokenizer: Path, origin: Path | None, rows: int) -> Calibration:
    """Take up to `rows` rows from a text file, a folder of them, or a .jsonl file of {"text": ...}.

    None stands for Python's standard library. Special tokens that a text spells out are read as such. Raises
    TreelineError where `origin` cannot be read or gives fewer than `LEAST_ROWS` rows.
    """
    name = PYTHON if origin is None else str(origin)
    encoder = tokenizers.Tokenizer.from_file(str(tokenizer))
    judged = max(4, rows // JUDGED_SHARE)
    found = list(itertools.islice(_rows(encoder, _texts(origin)), rows + judged))
    judged = min(judged, max(4, len(found) // 5))
    # every part of the text is in both: a folder's files differ more than the lines of one file
    every = max(2, len(found) // judged) if found else 1
    kept = found[every - 1 :: every][:judged]
    shown = [row for number, row in enumerate(found) if (number + 1) % every or number // every >= judged]
    if len(shown) < LEAST_ROWS:
        least = (LEAST_ROWS + 4) * ROW
        raise TreelineError(
            f"{name} is too short to calibrate with: it gives {sum(map(len, found))} tokens in rows of {ROW}, at least"
            f" {least} are needed: give more text with --calibration"
        )
    return Calibration(shown[:rows], kept, name)


def _rows(encoder: tokenizers.Tokenizer, texts: Iterable[str]) -> Iterator[list[int]]:
    """Cut texts, joined, into rows; what does not fill one at the end is dropped."""
    left: list[int] = []
    for text in texts:
        left += encoder.encode(text, add_special_tokens=False).ids
        while len(left) >= ROW:
            yield left[:ROW]
            left = left[ROW:]


def _texts(origin: Path | None) -> Iterator[str]:
    if origin is None:
        root = Path(sysconfig.get_paths()["stdlib"])
        for path in _shuffled(path for path in root.glob("*.py") if path.stat().st_size > SHORT):
            yield next(_pieces(path))
    elif origin.is_dir():
        for path in _shuffled(path for path in origin.rglob("*") if not _hidden(path.relative_to(origin))):
            try:
                yield next(_pieces(path), "") if path.is_file() else ""
            except TreelineError:
                continue  # an image among the sources
    elif origin.suffix == ".jsonl":
        yield from _json_lines(origin)
    else:
        yield from _pieces(origin)


def _shuffled(paths: Iterable[Path]) -> list[Path]:
    """Order paths by a hash: the same every time, and no neighbours."""
    return sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path.name)).digest())


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part in ("node_modules", "__pycache__") for part in path.parts)


def _pieces(path: Path) -> Iterator[str]:
    """Yield a text file piece by piece."""
    try:
        with path.open(encoding="utf-8") as file:
            while piece := file.read(PIECE):
                yield piece
    except OSError as error:
        raise TreelineError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TreelineError(f"{path} is not UTF-8 text: give a text file, a folder, or .jsonl of texts") from None


def _json_lines(path: Path) -> Iterator[str]:
    number, left = 0, ""
    for piece in itertools.chain(_pieces(path), ["\n"]):
        *lines, left = (left + piece).split("\n")
        for line in lines:
            number += 1
            if line.strip():
                yield _json_text(f"{path}:{number}", line)


def _json_text(place: str, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise TreelineError(f'{place} is no JSON object with a string "text"')
    return text[:PIECE].encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # no halves of characters


def perplexity(directory: Path, rows: list[list[int]], phase: str, progress: Progress | None = None) -> float:
    """Return exp of the mean loss per token over `rows`, each read on its own; the first token of a row is not judged.

    Dense weights are computed in float32, AWQ weights by the engine's own kernels: what users of the checkpoint get.
    """
    dtype = torch.float32 if not _is_quantised(directory) else None
    model = load_transformer(directory, LoadOptions(dtype=dtype, context=ROW))
    nats, count = 0.0, 0
    for number, row in enumerate(rows):
        if progress:
            progress(phase, number, len(rows))
        cache = model.new_cache(len(row))
        logits = model.forward(row, list(range(-1, len(row) - 1)), cache, slice(None, -1))
        nats += float(cross_entropy(logits, torch.tensor(row[1:]), reduction="sum"))
        count += len(row) - 1
    return math.exp(min(nats / count, 700.0))


def _is_quantised(directory: Path) -> bool:
    return "quantization_config" in json.loads((directory / "config.json").read_text(encoding="utf-8"))
