"""From a model's name to its directory. The Hugging Face cache is a real one, laid out as huggingface_hub does."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from engine import hub
from engine.config import EngineConfig
from engine.errors import TreelineError

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def add_to_cache(cache: Path, repository: str) -> Path:
    entry = cache / f"models--{repository.replace('/', '--')}"
    snapshot = entry / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(REVISION)
    return snapshot


def test_a_directory_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.resolve(str(tmp_path)) == tmp_path
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("owner/name") == Path("owner/name")


def test_an_id_or_preset_in_the_cache_is_its_snapshot(cache: Path) -> None:
    target = add_to_cache(cache, "Qwen/Qwen2.5-Coder-7B-Instruct-AWQ")
    assert hub.resolve("Qwen/Qwen2.5-Coder-7B-Instruct-AWQ") == target
    assert hub.resolve("qwen2.5-coder-7b") == target


def test_a_preset_brings_its_drafter(cache: Path) -> None:
    target = add_to_cache(cache, "Qwen/Qwen2.5-Coder-7B-Instruct-AWQ")
    with pytest.raises(
        TreelineError, match=r"treeline models pull Qwen/Qwen2\.5-Coder-0\.5B-Instruct`; or .* --drafter none"
    ):
        hub.resolve_pair(EngineConfig(model="qwen2.5-coder-7b"))
    drafter = add_to_cache(cache, "Qwen/Qwen2.5-Coder-0.5B-Instruct")
    for name in ("qwen2.5-coder-7b", "Qwen/Qwen2.5-Coder-7B-Instruct-AWQ"):
        assert hub.resolve_pair(EngineConfig(model=name)) == hub.Pair(target, drafter)
    assert hub.resolve_pair(EngineConfig(model="qwen2.5-coder-7b", drafter="none")) == hub.Pair(target, None)


def test_any_other_model_has_no_drafter_of_its_own(tmp_path: Path, cache: Path) -> None:
    assert hub.resolve_pair(EngineConfig(model=str(tmp_path))) == hub.Pair(tmp_path, None)
    drafter = add_to_cache(cache, "a/drafter")
    config = EngineConfig(model=str(tmp_path), drafter="a/drafter")
    assert hub.resolve_pair(config) == hub.Pair(tmp_path, drafter)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "llama-3.1-70b",
            "the model hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4 is not on this machine: download it with"
            " `treeline models pull llama-3.1-70b`",
        ),
        (
            "owner/name",
            "the model owner/name is not on this machine: download it with `treeline models pull owner/name`",
        ),
        ("llama3.1-70b", 'did you mean "llama-3.1-70b"?'),
        ("zzzz", "known are bundled, llama-3.1-70b"),
        ("./weights", "the model ./weights does not exist"),
        ("~/weights", "the model ~/weights does not exist"),
        ("/no/such/weights", "the model /no/such/weights does not exist"),
        ("a/b/c", "the model a/b/c does not exist"),
        ("~nobody-of-that-name/m", "there is no such user"),
        (__file__, "is a file: give the directory"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(name: str, complaint: str) -> None:
    with pytest.raises(TreelineError) as error:
        hub.resolve(name)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_whose_name_is_not_utf_8_is_said_to_be_so(tmp_path: Path) -> None:
    folder = tmp_path / "mod\udce8les"
    folder.mkdir()
    with pytest.raises(TreelineError, match="not UTF-8: rename it"):
        hub.resolve(str(folder))


def test_a_folder_has_the_name_of_its_model(cache: Path, tmp_path: Path) -> None:
    assert hub.name_of(hub.resolve("bundled")) == "bundled"
    assert hub.name_of(add_to_cache(cache, "owner/a--model")) == "owner/a--model"
    assert hub.name_of(tmp_path / "my-coder") == "my-coder"


def test_nothing_is_asked_of_the_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(TreelineError, match="treeline models pull"):
        hub.resolve("owner/name")
    assert list(cache.iterdir()) == []
