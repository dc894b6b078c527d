"""Small tokenizers of every family, trained on the standard library's source, saved as a checkpoint would hold them."""

from __future__ import annotations

import argparse
import inspect
import json
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FAMILIES = ("qwen", "llama3", "starcoder2", "deepseek", "codellama", "codestral", "mistral", "treeline")
SOURCE = "".join(map(inspect.getsource, (argparse, json, textwrap, inspect)))

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN = _LLAMA3.replace("{1,3}", "")
_TREELINE = r"[\r\n]+[ \t]*| ?__\p{L}[\p{L}_]*?__|\p{N}|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|[ \t]{2,}| ?[^\s\p{L}\p{N}]+|\s"
_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
SPECIALS = {
    "qwen": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *_FIM),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    "starcoder2": ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<repo_name>", "<file_sep>"),
    "deepseek": (
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜fim▁hole｜>",
        "<｜fim▁begin｜>",
        "<｜fim▁end｜>",
    ),
    "codellama": ("<unk>", "<s>", "</s>", "▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"),
    "codestral": ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"),
    "mistral": ("<unk>", "<s>", "</s>"),
    "treeline": ("<|endoftext|>", *_FIM),
}
_BOS = {"llama3": 0, "deepseek": 0, "codellama": 1, "codestral": 1, "mistral": 1}
_EOS = {"llama3": 1, "deepseek": 1, "codellama": 2, "codestral": 2, "mistral": 2}
_MODEL_TYPE = {"qwen": "qwen2", "starcoder2": "starcoder2", "codestral": "mistral", "mistral": "mistral"}


def write_tokenizer(family: str, directory: Path) -> Path:
    """Write the files of the family's kind of tokenizer to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_files(directory, dict(trained(family)))
    return directory


def write_files(directory: Path, files: dict[str, str]) -> None:
    """Write texts by file name."""
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


@cache
def trained(family: str, vocab_size: int = 1500) -> tuple[tuple[str, str], ...]:
    """Train the family's kind of tokenizer; return the files of its checkpoint, by name."""
    sentencepiece = family in ("codellama", "codestral", "mistral")
    document = _sentencepiece(family, vocab_size) if sentencepiece else _byte_level(family, vocab_size)
    specials = SPECIALS[family]
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config["eos_token"] = specials[_EOS.get(family, 0)]
    if family in _BOS:
        config["bos_token"] = {"content": specials[_BOS[family]], "__type": "AddedToken"}
    model = {"model_type": _MODEL_TYPE.get(family, "llama"), "eos_token_id": _EOS.get(family, 0)}
    contents = (("tokenizer", document), ("tokenizer_config", config), ("config", model))
    return tuple((f"{name}.json", json.dumps(content)) for name, content in contents)


def _pre_tokenizer(family: str) -> pre_tokenizers.PreTokenizer:
    parts: list[pre_tokenizers.PreTokenizer]
    if family == "starcoder2":
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        patterns = {
            "qwen": [_QWEN],
            "llama3": [_LLAMA3],
            "treeline": [_TREELINE],
            "deepseek": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"],
        }[family]
        parts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        if family == "deepseek":
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(parts)


def _byte_level(family: str, vocab_size: int) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE(ignore_merges=family == "llama3"))
    if family == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(family)
    tokenizer.decoder = decoders.ByteLevel()
    specials = list(SPECIALS[family])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([SOURCE], trainer)
    if family in _BOS:
        bos = specials[_BOS[family]]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, _BOS[family])]
        )
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    if family == "qwen":  # as released: the markers of fill-in-the-middle are not flagged special
        for token in document["added_tokens"][3:]:
            token["special"] = False
    if family == "deepseek":  # as released: no token for bytes that UTF-8 never uses, but letters that spell such bytes
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
        rest = [text for text in document["model"]["vocab"] if text != "õ"]
        document["model"]["vocab"] = {text: i for i, text in enumerate(rest)}
        document["added_tokens"].append({"id": len(rest), "content": "õ", **flags})
    return document


def _lines(source: str) -> Iterator[str]:
    yield from source.splitlines()  # SentencePiece models of this kind see no line break: it is a byte token


def _sentencepiece(family: str, vocab_size: int) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 256, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(_lines(SOURCE), trainer)
    trained: dict[str, Any] = json.loads(tokenizer.to_str())
    specials = SPECIALS[family]
    pieces = [piece for piece in trained["model"]["vocab"] if piece not in specials]
    names = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    trained["model"]["vocab"] = {name: i for i, name in enumerate(names)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    trained["added_tokens"] = [{"id": i, "content": name, **flags} for i, name in enumerate(specials)]
    return trained | _sentencepiece_rules(family)


def _sentencepiece_rules(family: str) -> dict[str, Any]:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Prepend", "prepend": "▁"}, replace]
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    rules: dict[str, Any] = {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
    }
    if family == "mistral":
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        rules |= {"normalizer": None, "pre_tokenizer": metaspace}
    bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return rules | {"post_processor": json.loads(bos.__getstate__())}
