"""What a checkpoint's tokenizer files say: read, checked and taken apart.

tokenizer.json is the `tokenizers` library's own format. Its companions (tokenizer_config.json, special_tokens_map.json,
config.json, generation_config.json) name the tokens that begin and end a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import tokenizers

from engine.errors import TreelineError

Json = dict[str, Any]

SPACE = "\u2581"  # SentencePiece writes a space as this block
_SLOW = ("tokenizer.model", "vocab.json", "merges.txt", "spiece.model", "vocab.txt")


def read_tokenizer(directory: str | Path) -> tuple[Json, Json, str]:
    """Return the parsed tokenizer.json, the merged companions and the path of the former, for messages.

    Among the companions tokenizer_config.json wins; `eos_token_id` lists what each of them says.
    Raises TreelineError, one line, for a missing or unreadable file.
    """
    root = Path(directory)
    path = root / "tokenizer.json"
    if not path.is_file():
        raise TreelineError(_missing(root))
    config: Json = {}
    eos: list[Any] = []
    for name in ("special_tokens_map.json", "config.json", "generation_config.json", "tokenizer_config.json"):
        if (root / name).is_file():
            part = read_json(root / name)
            eos.append(part.get("eos_token_id"))
            config |= {key: _content(value) for key, value in part.items() if value is not None}
    config["eos_token_id"] = eos
    return read_json(path), config, str(path)


def components(part: Json | None) -> list[Json]:
    """Return a normalizer, pre-tokenizer or decoder of tokenizer.json as a flat list of its parts."""
    if part is None:
        return []
    if part.get("type") == "Sequence":
        none: list[Json] = []
        inner = next((part[key] for key in ("normalizers", "pretokenizers", "decoders") if key in part), none)
        return [leaf for child in inner for leaf in components(child)]
    return [part]


def is_byte_level(document: Json) -> bool:
    """Say whether the vocabulary spells bytes as printable characters (GPT-2's way) and not spaces as blocks."""
    parts = [*components(document.get("pre_tokenizer")), *components(document.get("decoder"))]
    return any(part["type"] == "ByteLevel" for part in parts)


def _is_sentencepiece(document: Json) -> bool:
    sections = ("normalizer", "pre_tokenizer", "decoder")
    return any(SPACE in json.dumps(document.get(name), ensure_ascii=False) for name in sections)


def require_bpe(document: Json, source: str) -> None:
    """Raise TreelineError if tokenizer.json is of no kind that this package can take apart into bytes."""
    model = document.get("model")
    kind = cast("Json", model).get("type", "BPE") if isinstance(model, dict) else None
    if not isinstance(model, dict) or "vocab" not in model:
        raise TreelineError(f"{source}: no model.vocab in it: this is not a tokenizer.json of the tokenizers library")
    model = cast("Json", model)
    odd = model.get("end_of_word_suffix") or model.get("continuing_subword_prefix")
    if kind != "BPE" or odd or not (is_byte_level(document) or _is_sentencepiece(document)):
        raise TreelineError(
            f"{source}: unsupported tokenizer (model type {kind}): supported are byte-level BPE and "
            "SentencePiece-like BPE, as in Llama, Qwen, Mistral, StarCoder2 and DeepSeek"
        )


def looks_like_control(text: str) -> bool:
    """Say whether an added token is a marker and not text; several families leave `special` unset on theirs."""
    bare = text.strip(SPACE + " ")
    return len(bare) > 2 and (bare[0], bare[-1]) in (("<", ">"), ("[", "]"))


def leading_space(document: Json) -> str:
    """Say when a document starts with an extra space: `always`, `unless there` is one, or `never`."""
    if any(part["type"] == "Prepend" for part in components(document.get("normalizer"))):
        return "always"
    for part in components(document.get("pre_tokenizer")):
        if part["type"] == "Metaspace":
            scheme = part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never")
            return "never" if scheme == "never" else "unless there"
    return "never"


def plain(document: Json, kept: list[Json], source: str) -> tokenizers.Tokenizer:
    """Return the tokenizer without control tokens, leading spaces, template, truncation and padding."""
    plain: Json = document | {"added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}
    plain["normalizer"] = _rebuilt(document.get("normalizer"), "normalizers")
    plain["pre_tokenizer"] = _rebuilt(document.get("pre_tokenizer"), "pretokenizers")
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library raises bare Exception for whatever it does not understand
        raise TreelineError(f"{source}: not a valid tokenizer.json ({error}): download it again") from error


def _rebuilt(part: Json | None, children: str) -> Json | None:
    parts = [_without_lead(leaf) for leaf in components(part) if leaf["type"] != "Prepend"]
    return {"type": "Sequence", children: parts} if parts else None


def _without_lead(part: Json) -> Json:
    if part["type"] == "Metaspace":
        rest = {key: value for key, value in part.items() if key != "add_prefix_space"}
        return rest | {"prepend_scheme": "never"}
    return part | {"add_prefix_space": False} if part["type"] == "ByteLevel" else part


def adds_bos(document: Json, config: Mapping[str, Any], bos: str) -> bool:
    """Say whether prompts start with BOS: the config's word counts, else the template in tokenizer.json."""
    if isinstance(config.get("add_bos_token"), bool):
        return bool(config["add_bos_token"])
    return bool(bos) and bos in json.dumps(document.get("post_processor"), ensure_ascii=False)


def end_ids(config: Mapping[str, Any], named: int | None, vocab_size: int) -> Iterable[int]:
    """Return the ids that the config files call end of sequence, `named` (from its spelling) last; may repeat."""
    values: list[Any] = config.get("eos_token_id") or []
    for value in values:
        for token in cast("list[Any]", value if isinstance(value, list) else [value]):
            if isinstance(token, int) and 0 <= token < vocab_size:
                yield token
    if named is not None:
        yield named


def _content(value: object) -> object:
    """Return a token's spelling where a config file describes it as an object."""
    described: Json = cast("Json", value) if isinstance(value, dict) else {}
    return described.get("content", value)  # pyright: ignore[reportUnknownVariableType]


def read_json(path: Path) -> Json:
    """Return the object in a JSON file. Raises TreelineError, one line."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TreelineError(f"{path}: cannot be read as JSON ({error}): download it again") from error
    if not isinstance(document, dict):
        raise TreelineError(f"{path}: holds no JSON object: download it again")
    return cast("Json", document)


def _missing(root: Path) -> str:
    slow = [name for name in _SLOW if (root / name).is_file()]
    if not slow:
        return f"{root}: no tokenizer.json there: a model directory needs it beside config.json"
    return (
        f"{root}: only a slow tokenizer there ({', '.join(slow)}): convert it once with transformers, "
        f"AutoTokenizer.from_pretrained({str(root)!r}).save_pretrained({str(root)!r}), which writes tokenizer.json"
    )
