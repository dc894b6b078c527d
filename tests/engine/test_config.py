"""Settings: precedence, sizes, and errors that name the key, the place and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import EngineConfig, load_config, parse_size, parse_text
from engine.errors import TreelineError
from engine.models import PRESETS, REPOSITORIES, find_preset


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_nothing_set_gives_the_defaults(tmp_path: Path) -> None:
    assert load_config({}, None, {"XDG_CONFIG_HOME": str(tmp_path)}) == EngineConfig()


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'model = "a/file"\ndevice = "cpu"\nthreads = 3\nbudget = 7\n')
    environment = {"TREELINE_MODEL": "an/environment", "TREELINE_THREADS": "2"}
    config = load_config({"model": "a/option"}, file, environment)
    assert (config.model, config.threads, config.budget, config.device) == ("a/option", 2, 7, "cpu")
    assert load_config({}, file, environment).model == "an/environment"
    assert load_config({}, file, {}).model == "a/file"


def test_the_users_own_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "xdg" / "treeline"
    own.mkdir(parents=True)
    write(own, "budget = 5")
    assert load_config({}, None, {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}).budget == 5
    home = tmp_path / "home" / ".config" / "treeline"
    home.mkdir(parents=True)
    write(home, "budget = 6")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_config({}, None, {}).budget == 6
    assert load_config({}, None, {"TREELINE_CONFIG": str(own / "config.toml")}).budget == 5


def test_a_byte_order_mark_and_every_key_are_read(tmp_path: Path) -> None:
    text = """
    model = "llama-3.1-70b"
    drafter = "none"
    device = "cuda"
    dtype = "bfloat16"
    memory = "8GiB"
    context_length = 4096
    budget = "auto"
    verification = "sequoia"
    layout = "plain"
    threads = 4
    """
    config = load_config({}, write(tmp_path, b"\xef\xbb\xbf" + text.encode()), {})
    assert config == EngineConfig(
        "llama-3.1-70b", "none", "cuda", "bfloat16", 8 << 30, 4096, None, "sequoia", "plain", 4
    )


def test_a_relative_model_directory_is_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config({}, write(tmp_path, 'model = "./weights"'), {})
    assert Path(config.model) == tmp_path / "weights"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 * 1024**3),
        ("12GB", 12 * 1000**3),
        ("800M", 800 * 1024**2),
        ("1.5g", 1536 * 1024**2),
        ("64 KiB", 65536),
        ("2tb", 2 * 1000**4),
        ("12345", 12345),
        ("12345B", 12345),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_text("memory", text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "8 potatoes", "-1GB", "0", "0.0001K", "1e9", "8GiBB", "٨GB", "9" * 400 + "GB"]
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_text("memory", text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('modle = "x"', 'unknown key "modle" in {file}: did you mean "model"?'),
        ("zzz = 1", 'unknown key "zzz" in {file}: known are model, drafter, device'),
        ("[engine]\nx = 1", 'unknown key "engine" in {file}'),
        ("budget = 0", 'budget in {file} is 0: expected an integer from 1 to 512, or "auto"'),
        ('budget = "12"', "budget in {file} is '12': expected an integer"),
        ("threads = true", "threads in {file} is True: expected an integer"),
        ("model = 3", "model in {file} is 3: expected a preset"),
        ('model = " "', "model in {file} is ' ': expected a preset"),
        ('device = "tpu"', 'device in {file} is \'tpu\': expected one of "auto", "cpu", "cuda"'),
        ('memory = "lots"', "memory in {file} is 'lots': expected a size"),
        ("memory = -5", "memory in {file} is -5: expected a size"),
        ("memory = 1.5", "memory in {file} is 1.5: expected a size"),
        ("dtype = []", "dtype in {file} is []: expected one of"),
        ('model = "x"\nbudget = \n', "{file}:2:10: Invalid value: settings are lines of TOML, such as model ="),
        ("model = ", "{file}: Invalid value"),
        ("model bundled", "{file}:1:7: Expected '=' after a key in a key/value pair: settings are lines of TOML"),
        (b"model = '\xff'", "{file} is not UTF-8 (byte 9)"),
    ],
)
def test_a_bad_file_is_named_with_the_key_or_the_line(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(TreelineError) as error:
        load_config({}, file, {})
    assert str(error.value).startswith(complaint.format(file=file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("threads", [0, 1025, 100_000])
def test_threads_have_bounds(tmp_path: Path, threads: int) -> None:
    with pytest.raises(TreelineError, match='expected an integer from 1 to 1024, or "auto"$'):
        load_config({}, write(tmp_path, f"threads = {threads}"), {})


@pytest.mark.parametrize("key", ["schlüssel", "a\tb", "😀"])
def test_a_key_that_fits_no_header_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    complaint = 'api_key in {} is not usable: expected the key of the server at url, in printable ASCII, or "none"'
    file = tmp_path / "config.toml"
    with pytest.raises(TreelineError) as error:
        load_config({}, write(tmp_path, f"api_key = {json.dumps(key, ensure_ascii=False)}"), {})
    assert str(error.value) == complaint.format(file)
    with pytest.raises(TreelineError, match="^the environment variable TREELINE_API_KEY is not usable: expected"):
        load_config({}, None, {"XDG_CONFIG_HOME": str(tmp_path / "no"), "TREELINE_API_KEY": key})


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "TREELINE_BUDGET": "many"}
    with pytest.raises(TreelineError, match=r"variable TREELINE_BUDGET is 'many': expected an integer from 1 to 512"):
        load_config({}, None, environment)


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    for file, environment in ((tmp_path / "no.toml", {}), (None, {"TREELINE_CONFIG": str(tmp_path / "no.toml")})):
        with pytest.raises(TreelineError, match=r"no\.toml does not exist: name one that does, or none"):
            load_config({}, file, environment)
    with pytest.raises(TreelineError, match="Is a directory"):
        load_config({}, tmp_path, {})


def test_a_preset_is_found_by_its_name_and_by_its_targets_id() -> None:
    preset = find_preset("qwen2.5-coder-7b")
    assert preset is not None
    assert preset == find_preset("Qwen/Qwen2.5-Coder-7B-Instruct-AWQ")
    assert find_preset("qwen") is None


def test_a_preset_for_a_machine_sets_memory_and_context(tmp_path: Path) -> None:
    config = load_config({"model": "gpu-12gb"}, None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert (config.memory, config.context_length) == (11 * 2**30, 4096)
    weaker = load_config({"model": "gpu-12gb"}, None, {"XDG_CONFIG_HOME": str(tmp_path), "TREELINE_MEMORY": "auto"})
    assert (weaker.memory, weaker.context_length) == (None, 4096)
    target = PRESETS[1].target
    assert load_config({"model": target}, None, {"XDG_CONFIG_HOME": str(tmp_path)}).memory is None


def test_every_preset_names_models_whose_size_and_licence_are_known() -> None:
    names = {name for preset in PRESETS for name in preset.repositories}
    assert names == set(REPOSITORIES)
