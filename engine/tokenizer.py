"""Text to token ids and back, over the `tokenizers` library.

A file that is being edited is data: a special token spelled out in it (`<|endoftext|>`, `<|fim_middle|>`) must stay
text. So `encode` works without the control tokens, and layouts ask for their ids by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from engine import tokenizer_files as files
from engine.segments import SegmentCache, safe_followers
from engine.token_table import Ids, IncrementalDecoder, TokenTable, byte_level_alphabet
from engine.tokenizer_files import SPACE, Json

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_HEAL_TOKENS = 8
_HEAL_BYTES = 64


@dataclass(frozen=True, slots=True)
class Healed:
    """A prompt whose last tokens were taken back.

    `dropped` are the ids that spelled `required` bytes; the next tokens must spell them again, or go beyond them.
    """

    kept: list[int]
    dropped: list[int]
    required: bytes


class Tokenizer:
    """A byte-level (Qwen, Llama 3, StarCoder2, DeepSeek) or SentencePiece-like (Llama 2, Mistral) BPE tokenizer.

    `bos_id` is None where the model has no such token; `add_bos` says whether prompts start with it. `eos_ids` lists
    every id that ends a text. `model_type` and `declared_layout` repeat what the checkpoint's config files say.
    """

    def __init__(self, document: Json, config: Mapping[str, Any], source: str) -> None:
        """Build from a parsed tokenizer.json and the merged config files; see `load`."""
        files.require_bpe(document, source)
        self.model_type = str(config.get("model_type") or "")
        treeline = cast("Mapping[str, Any]", config.get("treeline") or {})
        self.declared_layout = cast("str | None", treeline.get("layout"))
        vocab = cast("dict[str, int]", document["model"]["vocab"])
        added = cast("list[Json]", document.get("added_tokens") or [])
        self._ids = vocab | {str(token["content"]): int(token["id"]) for token in added}
        self.vocab_size = max(self._ids.values(), default=-1) + 1
        self.control_ids = frozenset(self._controls(added, config, document["model"].get("unk_token")))
        self.bos_id = self._named(config, "bos_token", "bos_token_id")
        self.eos_ids = tuple(dict.fromkeys(files.end_ids(config, self._named(config, "eos_token"), self.vocab_size)))
        self.add_bos = self.bos_id is not None and files.adds_bos(document, config, str(config.get("bos_token") or ""))
        kept = [token for token in added if int(token["id"]) not in self.control_ids]
        self._leading_space = files.leading_space(document)
        self._fast = files.plain(document, kept, source)
        self.table = TokenTable(self._spell(files.is_byte_level(document), {str(token["content"]) for token in kept}))
        followers = safe_followers(document, self._fast, self.table.tokens)
        self._segments = SegmentCache(self._encode_all, followers)

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """Read tokenizer.json and its companions from a checkpoint's directory.

        tokenizer_config.json, special_tokens_map.json, config.json and generation_config.json are optional.
        Raises TreelineError, one line, for a missing, unreadable or unsupported tokenizer.
        """
        return cls(*files.read_tokenizer(directory))

    def encode(self, text: str, *, first: bool = False) -> list[int]:
        """Return the ids of `text`: no special token is added, and none is recognised in it.

        `first` marks a text that starts a document. SentencePiece-like models were trained with a space in front of
        those; everywhere else the text is encoded as it stands. Known parts of the text come from a cache, so that
        encoding a file again after a keystroke costs little.
        """
        return self._segments.encode(self._lead(text) if first else text)

    def encode_uncached(self, text: str, *, first: bool = False) -> list[int]:
        """Return the same ids as `encode`, from the library in one piece."""
        return self._encode_all(self._lead(text) if first else text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; control tokens stand for none, invalid bytes become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for; none for control tokens and for ids beyond the vocabulary."""
        return self.table.tokens[token] if 0 <= token < len(self.table) else b""

    def special_id(self, text: str) -> int | None:
        """Return the id of a control token by its spelling, None if there is none."""
        token = self._ids.get(text)
        return token if token in self.control_ids else None

    @property
    def leading(self) -> bytes:
        """The space that a document's first text was given in training, where it was; see `encode`."""
        return b"" if self._leading_space == "never" else b" "

    def decoder(self) -> IncrementalDecoder:
        """Return a fresh decoder for `token_bytes` of one completion."""
        return IncrementalDecoder()

    def healing(self, ids: Sequence[int]) -> Healed:
        """Take back the tokens at the end which a longer token could have covered.

        `pri` + `nt` is a token pair that training never showed, if `print` is one token. The largest number of last
        tokens is dropped whose bytes together start some longer token; none, if no token goes on from there.
        """
        count, tail = 0, b""
        for back in range(1, min(_HEAL_TOKENS, len(ids)) + 1):
            token = ids[-back]
            tail = self.token_bytes(token) + tail
            if token in self.control_ids or len(tail) > _HEAL_BYTES:
                break
            if tail and self.table.extends(tail):
                count = back
        kept, dropped = list(ids[: len(ids) - count]), list(ids[len(ids) - count :])
        return Healed(kept, dropped, b"".join(map(self.token_bytes, dropped)))

    def allowed_ids(self, required: bytes) -> Ids:
        """Return the ids, ascending int64, that may come next while `required` bytes are owed."""
        return self.table.allowed(required)

    def _encode_all(self, text: str) -> list[int]:
        try:
            return self._fast.encode(text, add_special_tokens=False).ids
        except TypeError:  # half of a surrogate pair, which JSON may hold, is no text
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return self._fast.encode(whole, add_special_tokens=False).ids

    def _lead(self, text: str) -> str:
        if not text or self._leading_space == "never":
            return text
        has_one = text[0] in (" ", SPACE)
        return text if has_one and self._leading_space == "unless there" else " " + text

    def _controls(self, added: list[Json], config: Mapping[str, Any], unknown: object) -> Iterable[int]:
        for token in added:
            if token.get("special") or files.looks_like_control(token["content"]):
                yield int(token["id"])
        named = [config.get(f"{role}_token") for role in ("bos", "eos", "pad", "unk")]
        yield from (self._ids[text] for text in (*named, unknown) if isinstance(text, str) and text in self._ids)

    def _named(self, config: Mapping[str, Any], name: str, fallback: str = "") -> int | None:
        text = config.get(name)
        if isinstance(text, str) and text in self._ids:
            return self._ids[text]
        number = config.get(fallback)
        return number if isinstance(number, int) and 0 <= number < self.vocab_size else None

    def _spell(self, byte_level: bool, literal: set[str]) -> list[bytes]:
        """Return the bytes of every id; `literal` tokens are spelled as they are."""
        as_latin1 = {ord(char): byte for char, byte in byte_level_alphabet().items()}
        spelled = [b""] * self.vocab_size
        for text, token in self._ids.items():
            if token in self.control_ids:
                continue
            if text in literal:
                spelled[token] = text.encode()
            elif byte_level:
                spelled[token] = text.translate(as_latin1).encode("latin-1", "replace")
            elif match := _BYTE.fullmatch(text):
                spelled[token] = bytes([int(match[1], 16)])
            else:
                spelled[token] = text.replace(SPACE, " ").encode()
        return spelled
