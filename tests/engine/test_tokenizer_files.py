"""What a checkpoint's tokenizer files may say, and what is wrong with those that are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import TreelineError
from engine.tokenizer import Tokenizer
from tests.engine.small_tokenizers import trained, write_files


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TreelineError, match=r"no tokenizer\.json there"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x00")
    with pytest.raises(TreelineError, match=r"slow tokenizer there \(tokenizer\.model\): convert .*save_pretrained"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no JSON object"),
        ("{}", r"no model\.vocab"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', "unsupported tokenizer"),
        ('{"model": {"type": "WordPiece", "vocab": {"a": 0}}, "decoder": {"type": "ByteLevel"}}', "type WordPiece"),
        (
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}, "decoder": {"type": "ByteLevel"}}',
            "not a valid tokenizer",
        ),
    ],
)
def test_bad_tokenizer_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(TreelineError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_truncated_file_and_a_bad_companion(tmp_path: Path) -> None:
    files = dict(trained("qwen"))
    write_files(tmp_path, files | {"tokenizer.json": files["tokenizer.json"][:5000]})
    with pytest.raises(TreelineError, match="download it again"):
        Tokenizer.load(tmp_path)
    write_files(tmp_path, files | {"tokenizer_config.json": "nonsense"})
    with pytest.raises(TreelineError, match=r"tokenizer_config\.json: cannot be read"):
        Tokenizer.load(tmp_path)


def test_end_tokens_from_every_file(tmp_path: Path) -> None:
    files = dict(trained("llama3"))
    write_files(tmp_path, files | {"generation_config.json": json.dumps({"eos_token_id": [1, 2, 3, 99999]})})
    assert sorted(Tokenizer.load(tmp_path).eos_ids) == [1, 2, 3]


def test_the_config_says_whether_to_begin_with_bos(tmp_path: Path) -> None:
    files = dict(trained("llama3"))
    config = json.loads(files["tokenizer_config.json"]) | {"add_bos_token": False}
    write_files(tmp_path, files | {"tokenizer_config.json": json.dumps(config)})
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.bos_id == 0
    assert not tokenizer.add_bos
