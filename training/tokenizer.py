"""Train the pair's tokenizer: byte-level BPE whose pre-tokenisation knows code.

A line break with the indentation that follows is one piece, so the usual indentations become single tokens; digits
stand alone; a word takes one leading punctuation mark or space (`` name``, ``.name``, ``_name``); ``__dunder__`` names
stay whole. Nothing is normalised: decoding returns exactly the text that was encoded.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.common import TrainingError, default_cache, progress, sha256_file
from training.data import TOKENIZER as BUNDLED
from training.data import Document, read_split
from training.model import Llama, LlamaShape

VOCABULARY_SIZE = 16384
END_OF_TEXT = "<|endoftext|>"
FIM_PREFIX = "<|fim_prefix|>"
FIM_MIDDLE = "<|fim_middle|>"
FIM_SUFFIX = "<|fim_suffix|>"
FIM_PAD = "<|fim_pad|>"
FILE_SEPARATOR = "<|file_sep|>"
REPO_NAME = "<|repo_name|>"
SPECIALS = (END_OF_TEXT, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD, FILE_SEPARATOR, REPO_NAME)

_PATTERN = "|".join(
    (
        r"[\r\n]+[ \t]*",  # line breaks and the next line's indentation
        r" ?__\p{L}[\p{L}_]*?__",  # dunder names
        r"\p{N}",  # digits one by one
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",  # a word with one leading mark or space
        r"[ \t]{2,}",  # runs of blanks inside a line, or indentation where a text begins
        r" ?[^\s\p{L}\p{N}]+",  # runs of punctuation
        r"\s",
    )
)


def new_tokenizer() -> Tokenizer:
    """An untrained byte-level BPE tokenizer with the code-aware split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def training_texts(documents: list[Document], limit: int, seed: int) -> Iterator[str]:
    """Texts of randomly ordered documents until ``limit`` characters are reached."""
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    total = 0
    for index in order:
        if total >= limit:
            return
        total += len(documents[index].text)
        yield documents[index].text


def train(documents: list[Document], limit: int, seed: int, size: int = VOCABULARY_SIZE) -> Tokenizer:
    """Train ``size`` entries on up to ``limit`` characters of the documents."""
    tokenizer = new_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(documents, limit, seed), trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and the tokenizer_config.json that transformers' AutoTokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END_OF_TEXT,
        "pad_token": FIM_PAD,
        "additional_special_tokens": list(SPECIALS[1:]),
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def check_round_trip(tokenizer: Tokenizer, documents: list[Document]) -> None:
    """Raise TrainingError unless every text decodes to itself; every Unicode block and odd blanks included."""
    odd = ["", " ", "\r\n\t x", "a\u00a0b\u2028c\x00d", "".join(chr(c) for c in range(0x3000)), "🌲 ä\n\n\n   \t\n"]
    for text in [*odd, *(d.text for d in documents)]:
        if tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) != text:
            raise TrainingError(f"the tokenizer does not round-trip {text[:60]!r}")


def smaller(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """The tokenizer that the same text would have given with fewer entries: the later merges are dropped."""
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    dropped = len(model["vocab"]) - size
    kept = len(model["merges"]) - dropped
    if dropped < 0 or kept < 0:
        least = len(model["vocab"]) - len(model["merges"])
        raise TrainingError(f"{size} entries: it must be from {least} to {len(model['vocab'])}")
    model["merges"] = model["merges"][:kept]
    model["vocab"] = {token: index for token, index in model["vocab"].items() if index < size}
    return Tokenizer.from_str(json.dumps(content))


def bytes_per_token(tokenizer: Tokenizer, documents: list[Document]) -> dict[str, float]:
    """Bytes per token of each language."""
    sizes, tokens = Counter[str](), Counter[str]()
    for document in documents:
        sizes[document.language] += len(document.text.encode())
        tokens[document.language] += len(tokenizer.encode(document.text).ids)
    return {language: sizes[language] / tokens[language] for language in sorted(sizes)}


def compare(documents: list[Document], heldout: list[Document], sizes: list[int], limit: int, seed: int) -> None:
    """Print, for each size and for the bundled tokenizer, bytes per token and what a byte costs the bundled target.

    The cost counts two operations per weight and token, in the layers and in the output projection.
    """
    shape = LlamaShape()
    largest = train(documents, limit, seed, max(sizes))
    layers = sum(p.numel() for layer in Llama(shape).layers for p in layer.parameters())
    candidates = {f"{size}": smaller(largest, size) for size in sorted(sizes)}
    for name, tokenizer in {**candidates, "bundled": Tokenizer.from_file(str(BUNDLED))}.items():
        rates = bytes_per_token(tokenizer, heldout)
        embedding = tokenizer.get_vocab_size() * shape.hidden
        cost = 2 * (layers + embedding) / rates["python"] / 1e6
        shown = "bytes per token: " + ", ".join(f"{language} {rate:.3f}" for language, rate in rates.items())
        print(f"{name:8} embedding {embedding / 1e6:.1f} M weights, {cost:.2f} MFLOP a byte of python;", shown)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.tokenizer", description=__doc__)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="working folder (default: %(default)s)")
    parser.add_argument("--characters", type=int, default=30_000_000, help="text to learn merges from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", type=int, nargs="+", metavar="SIZE", help="measure these sizes and write nothing")
    arguments = parser.parse_args()
    try:
        train_documents = read_split(arguments.cache, "train")
        heldout = read_split(arguments.cache, "heldout")
        if arguments.compare:
            compare(train_documents, heldout, arguments.compare, arguments.characters, arguments.seed)
            return 0
        tokenizer = train(train_documents, arguments.characters, arguments.seed)
        check_round_trip(tokenizer, heldout)
    except TrainingError as error:
        progress(f"error: {error}")
        return 1
    folder = arguments.cache / "tokenizer"
    save(tokenizer, folder)
    size = sum(len(d.text.encode()) for d in heldout)
    tokens = sum(len(tokenizer.encode(d.text).ids) for d in heldout)
    progress(f"{tokenizer.get_vocab_size()} entries; held-out: {size / tokens:.3f} bytes per token")
    progress(f"{folder / 'tokenizer.json'} sha256 {sha256_file(folder / 'tokenizer.json')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
