"""Text that shows a quantiser what a model reads; and perplexity, on a part of it that the quantiser is not shown."""

from __future__ import annotations

import hashlib
import json
import math
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tokenizers
import torch
from torch.nn.functional import cross_entropy

from engine.errors import TreelineError
from engine.model.loader import LoadOptions, load_transformer

ROW = 512  # tokens
LEAST_ROWS = 16  # to calibrate with
JUDGED_SHARE = 8  # one row in so many is kept back to judge by
CHARACTERS = 250_000  # of a file that are read at most
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
    found = list(islice(_rows(encoder, _texts(origin)), rows + judged))
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
        files = (path for path in root.glob("*.py") if path.stat().st_size > 2000)
        yield from map(_text, sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).digest()))
    elif origin.is_dir():
        files = (path for path in origin.rglob("*") if path.is_file() and not _hidden(path.relative_to(origin)))
        for path in sorted(files, key=lambda path: hashlib.sha256(str(path.relative_to(origin)).encode()).digest()):
            try:
                yield _text(path)
            except TreelineError:
                continue  # an image among the sources
    elif origin.suffix == ".jsonl":
        yield from _json_lines(origin)
    else:
        yield _text(origin)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part in ("node_modules", "__pycache__") for part in path.parts)


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TreelineError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TreelineError(f"{path} is not UTF-8 text: give a text file, a folder, or .jsonl of texts") from None
    return text[:CHARACTERS]


def _json_lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_text_lines(path), start=1):
        try:
            yield json.loads(line)["text"][:CHARACTERS]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise TreelineError(f'{path}:{number} is no JSON object with a string "text"') from None


def _text_lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line for line in file if line.strip())
    except OSError as error:
        raise TreelineError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TreelineError(f"{path} is not UTF-8 text") from None


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
