"""Prompts as the families were trained on them, within budgets, and steady while the user types."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from transformers import AutoTokenizer

from engine.errors import TreelineError
from engine.layouts import choose_layout
from engine.prompt import build_prompt
from engine.request import CompletionRequest, ContextFile
from engine.surroundings import shown_path
from engine.tokenizer import Tokenizer
from tests.engine.prompts import PREFIX, SUFFIX, load, prompt_of, spelled
from tests.engine.small_tokenizers import FAMILIES, SOURCE, trained, write_tokenizer
from training.layouts import Encoder

CHOSEN = {
    "qwen": "qwen",
    "llama3": "plain",
    "starcoder2": "starcoder2",
    "deepseek": "deepseek",
    "codellama": "codellama",
    "codestral": "codestral",
    "mistral": "plain",
    "treeline": "treeline",
}
UTIL = ContextFile("pkg/util.py", "def g():\n    return 1\n")


def text_of(family: str, **fields: object) -> str:
    """The prompt's text with what is owed at its end in brackets."""
    prompt = prompt_of(family, **fields)  # type: ignore[arg-type]
    return spelled(load(family), prompt.ids) + (f"⟦{prompt.required.decode()}⟧" if prompt.required else "")


def same(text: str, expected: str) -> bool:
    """Whether the texts are the same; what a family owes is compared where its row's training settles it."""
    return text == expected or ("⟦" not in expected and text.replace("⟦", "").replace("⟧", "") == expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_is_found(family: str) -> None:
    assert choose_layout(load(family)).name == CHOSEN[family]


# --- one file

ONE_FILE = {
    "qwen": "<|fim_prefix|>import os\n\n\ndef f(x):\n   <|fim_suffix|>\n    return x\n<|fim_middle|>⟦ pri⟧",
    "starcoder2": "<fim_prefix><fim_suffix>\n    return x\n<fim_middle>import os\n\n\ndef f(x):\n    pri",
    "starcoder2-prefix-first": "<fim_prefix>import os\n\n\ndef f(x):\n    pri<fim_suffix>\n    return x\n<fim_middle>",
    "deepseek": (
        "<｜begin▁of▁sentence｜><｜fim▁begin｜>import os\n\n\ndef f(x):\n   "
        "<｜fim▁hole｜>\n    return x\n<｜fim▁end｜>⟦ pri⟧"
    ),
    "codellama": "<s>▁<PRE>▁<SUF>\n    return x\n▁<MID> import os\n\n\ndef f(x):\n   ⟦ pri⟧",
    "codellama-prefix-first": "<s>▁<PRE> import os\n\n\ndef f(x):\n    pri▁<SUF>\n    return x\n▁<MID>",
    "codestral": "<s>[SUFFIX]\n    return x\n[PREFIX] import os\n\n\ndef f(x):\n   ⟦ pri⟧",
    "treeline": (
        "<|file_sep|>pkg/main.py\n<|fim_prefix|><|fim_suffix|>\n    return x\n<|fim_middle|>"
        "import os\n\n\ndef f(x):\n    pri"
    ),
    "treeline-prefix-first": (
        "<|file_sep|>pkg/main.py\n<|fim_prefix|>import os\n\n\ndef f(x):\n    pri"
        "<|fim_suffix|>\n    return x\n<|fim_middle|>"
    ),
}


@pytest.mark.parametrize("name", ONE_FILE)
def test_one_file(name: str) -> None:
    assert same(text_of(name.split("-")[0], name=name), ONE_FILE[name])


def test_without_marks_the_suffix_becomes_a_comment() -> None:
    below = "# pkg/main.py, below the cursor:\n#     return x\n\n# pkg/main.py\nimport os\n\n\ndef f(x):\n   ⟦ pri⟧"
    assert text_of("llama3") == "<|begin_of_text|>" + below
    assert text_of("mistral") == "<s> " + below
    script = text_of("llama3", path="a.ts", language="typescriptreact", prefix="let a", suffix=" = 1;\n\nf()")
    assert script.startswith("<|begin_of_text|>// a.ts, below the cursor:\n//  = 1;\n// f()\n\n// a.ts\nlet")


@pytest.mark.parametrize(("family", "name"), [("qwen", "qwen"), ("starcoder2", "starcoder2-prefix-first")])
def test_the_official_template_gives_the_same_ids(family: str, name: str) -> None:
    tokenizer = load(family)
    layout = replace(choose_layout(tokenizer, name), heal=False)
    prompt = build_prompt(CompletionRequest(PREFIX, SUFFIX), tokenizer, layout, 1024)
    bars = "|" if family == "qwen" else ""
    template = f"<{bars}fim_prefix{bars}>{PREFIX}<{bars}fim_suffix{bars}>{SUFFIX}<{bars}fim_middle{bars}>"
    with TemporaryDirectory() as directory:
        oracle = AutoTokenizer.from_pretrained(write_tokenizer(family, Path(directory)))
    assert list(prompt.ids) == oracle.encode(template, add_special_tokens=False)


@pytest.mark.parametrize("suffix", [SUFFIX, ""])
def test_the_bundled_pair_sees_what_it_was_trained_on(suffix: str) -> None:
    from tokenizers import Tokenizer as Library

    training = Encoder(Library.from_str(dict(trained("treeline"))["tokenizer.json"]))
    expected = training.header("pkg/main.py") + training.prompt(training.encode(PREFIX), training.encode(suffix), True)
    prompt = prompt_of("treeline", suffix=suffix)
    assert [*prompt.ids, *prompt.dropped] == expected
    assert training.end in prompt.stop_ids


# --- several files

SEVERAL = {
    "qwen": (
        "<|repo_name|>pkg\n<|file_sep|>pkg/util.py\ndef g():\n    return 1\n<|file_sep|>pkg/main.py\n"
        "<|fim_prefix|>import os\n\n\ndef f(x):\n   <|fim_suffix|>\n    return x\n<|fim_middle|>⟦ pri⟧"
    ),
    "starcoder2": (
        "<repo_name>pkg<file_sep>pkg/util.py\ndef g():\n    return 1\n<file_sep><fim_prefix><fim_suffix>\n"
        "    return x\n<fim_middle>pkg/main.py\nimport os\n\n\ndef f(x):\n    pri"
    ),
    "deepseek": (
        "<｜begin▁of▁sentence｜><｜fim▁begin｜># pkg/util.py\ndef g():\n    return 1\n\n# pkg/main.py\nimport os\n\n\n"
        "def f(x):\n   <｜fim▁hole｜>\n    return x\n<｜fim▁end｜>⟦ pri⟧"
    ),
    "codestral": (
        "<s>[SUFFIX]\n    return x\n[PREFIX] +++++ pkg/util.py\ndef g():\n    return 1\n\n+++++ pkg/main.py\n"
        "import os\n\n\ndef f(x):\n   ⟦ pri⟧"
    ),
    "llama3": (
        "<|begin_of_text|># pkg/util.py\n# def g():\n#     return 1\n\n# pkg/main.py, below the cursor:\n"
        "#     return x\n\n# pkg/main.py\nimport os\n\n\ndef f(x):\n   ⟦ pri⟧"
    ),
    "treeline": (
        "<|file_sep|>pkg/util.py\ndef g():\n    return 1\n<|file_sep|>pkg/main.py\n<|fim_prefix|><|fim_suffix|>\n"
        "    return x\n<|fim_middle|>import os\n\n\ndef f(x):\n    pri"
    ),
}


@pytest.mark.parametrize("family", SEVERAL)
def test_several_files(family: str) -> None:
    assert same(text_of(family, context=(UTIL,)), SEVERAL[family])


def test_a_repository_is_named_after_the_folder_of_all_files() -> None:
    for context, named in [((UTIL,), True), ((UTIL, ContextFile("b.py", "x\n")), False), ((), False)]:
        assert ("<|repo_name|>pkg\n" in text_of("qwen", context=context)) == named
    assert "<|repo_name|>" not in text_of("qwen", context=(ContextFile("other/b.py", "x\n"),))


def test_files_share_their_room_in_order() -> None:
    files = tuple(ContextFile(f"pkg/{i}.py", SOURCE[i * 9000 : i * 9000 + 9000]) for i in range(3))
    text = text_of("qwen", context=files, window=1024)
    assert [text.index(f"<|file_sep|>pkg/{i}.py\n") for i in range(3)] == sorted(
        text.index(f"<|file_sep|>pkg/{i}.py\n") for i in range(3)
    )
    for i in range(3):
        body = text.split(f"pkg/{i}.py\n")[1].split("<|file_sep|>")[0]
        assert files[i].text.startswith(body)
        assert body.endswith("\n")
        assert len(body) > 200


# --- ends of the file


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["", "\n", "x", PREFIX])
@pytest.mark.parametrize("suffix", ["", "\n", SUFFIX])
@pytest.mark.parametrize("path", ["", "a.py"])
def test_there_is_always_a_prompt(family: str, prefix: str, suffix: str, path: str) -> None:
    prompt = prompt_of(family, prefix=prefix, suffix=suffix, path=path)
    assert prompt.ids
    assert prompt.max_new >= 64
    text = spelled(load(family), prompt.ids)
    if not suffix.strip() and family not in ("treeline", "codestral"):
        assert "fim" not in text
        assert "<PRE>" not in text
    assert (prefix[:-4] if prefix == PREFIX else "") in text


def test_a_file_end_is_a_plain_continuation_where_nothing_else_was_trained() -> None:
    assert text_of("qwen", suffix="\n") == "import os\n\n\ndef f(x):\n   ⟦ pri⟧"
    assert text_of("codestral", suffix="").startswith("<s>[SUFFIX][PREFIX] import")
    assert text_of("treeline", suffix="", path="").startswith("<|fim_prefix|><|fim_suffix|><|fim_middle|>import")


def test_an_empty_file() -> None:
    empty = {"prefix": "", "suffix": "", "path": ""}
    assert text_of("qwen", **empty) == "<|endoftext|>"
    assert text_of("llama3", **empty) == "<|begin_of_text|>"
    # the space that begins every text of such models is not the user's
    assert text_of("mistral", **empty) == "<s>⟦ ⟧"
    assert text_of("treeline", **(empty | {"path": "a.py"})).endswith(
        "<|file_sep|>a.py\n<|fim_prefix|><|fim_suffix|><|fim_middle|>"
    )


# --- choosing


def test_an_unknown_layout() -> None:
    with pytest.raises(TreelineError, match="called qwen3: choose one of treeline, .*codestral, plain"):
        choose_layout(load("qwen"), "qwen3")


def test_a_layout_whose_tokens_are_missing() -> None:
    with pytest.raises(TreelineError, match=r"codestral needs \[SUFFIX\], \[PREFIX\], which"):
        choose_layout(load("qwen"), "codestral")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_checkpoint_declares_its_layout(file: str, tmp_path: Path) -> None:
    files = dict(trained("treeline"))
    declared = json.loads(files[file]) | {"treeline": {"layout": "treeline-prefix-first"}}
    for name, text in (files | {file: json.dumps(declared)}).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert choose_layout(tokenizer).name == "treeline-prefix-first"
    assert choose_layout(tokenizer, "plain").name == "plain"


def test_stop_tokens() -> None:
    tokenizer = load("qwen")
    names = {text for text in tokenizer._ids if tokenizer._ids[text] in prompt_of("qwen").stop_ids}
    assert names == {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"} | {
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
    }


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/home/u/p/a.py", "p/a.py"), ("C:\\x\\y\\a.py", "y/a.py"), ("p/a\n.py", "p/a .py"), ("a.py", "a.py"), ("", "")],
)
def test_paths(path: str, shown: str) -> None:
    assert shown_path(path) == shown


def test_a_long_path_leaves_room_for_text() -> None:
    shown = shown_path("p/" + "deep/" * 900 + "a.py")
    assert len(shown) <= 200
    assert shown.endswith("deep/a.py")


def test_a_long_path_in_a_small_context_is_cut(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer("treeline", tmp_path))
    request = CompletionRequest("x = 1\n" * 200, path="\u4e2d" * 150 + ".py", max_tokens=16)
    for window in (96, 256, 2048):
        prompt = build_prompt(request, tokenizer, choose_layout(tokenizer), window)
        assert len(prompt.ids) + prompt.max_new <= window
        assert prompt.max_new == 16
        assert len(prompt.ids) > window // 3
