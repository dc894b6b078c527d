"""Which model runs, and how: settings from the command line, the environment and one TOML file.

Precedence: command line, then `TREELINE_*` variables, then the file, then the preset's, then those of `EngineConfig`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from engine.errors import TreelineError
from engine.models import preset_settings
from engine.request import MAX_BUDGET

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "float16", "bfloat16"]
Verification = Literal["keyed", "sequoia"]

MAX_THREADS = 1024  # no machine has more use for them, and the system gives out only so many
ENVIRONMENT_PREFIX = "TREELINE_"
REACHING = ("url", "api_key", "daemon", "idle_minutes")  # settings that say how an engine is reached, not what it is


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything that decides how models are loaded and run. The defaults here are the only copy.

    `model`: a preset, a checkpoint directory or a Hugging Face id. `drafter`: the same, or "auto" (the preset's own;
    n-grams alone for other models) or "none" (n-grams alone). `device` "auto": the CPU for the bundled pair, else a
    GPU where there is one. `dtype`: of computation, "auto" takes the kernel's fastest. `memory`: bytes that weights
    and caches may take, None for no limit. `context_length`: tokens, None for the model's own. `budget`: draft nodes
    per pass, None to choose it from measured costs. `verification` at temperature > 0: "keyed" noise (the output does
    not depend on the tree) or "sequoia" (sampling without replacement). `layout`: name of a prompt layout, None to
    choose it from the tokenizer. `threads`: CPU threads, None for all cores.

    The rest says how an engine is reached. `url`: of another server's OpenAI-compatible API, which then takes the place
    of an engine here, and `api_key`: what it wants to be told. `daemon`: whether one process serves all clients.
    `idle_minutes`: after which such a process ends, None for never.
    """

    model: str = "bundled"
    drafter: str = "auto"
    device: Device = "auto"
    dtype: DType = "auto"
    memory: int | None = None
    context_length: int | None = None
    budget: int | None = None
    verification: Verification = "keyed"
    layout: str | None = None
    threads: int | None = None
    url: str | None = None
    api_key: str | None = None
    daemon: bool = True
    idle_minutes: int | None = 30


def closest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean "x"?` for the known word nearest to `word`, or the list of all when none is near."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else f"known are {', '.join(words)}"


# --- one value -------------------------------------------------------------------------------------------------------

# coreutils' convention: a bare letter and "iB" are powers of 1024, "B" after a letter is a power of 1000.
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?B)?|B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Return the bytes of "8GiB", "12GB", "800M" (= 800 MiB) or "1073741824". Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    number, letter, unit = match.groups()
    base = 1000 if unit is not None and unit.upper() == "B" else 1024
    size = float(number) * base ** (" KMGT".index(letter.upper()) if letter else 0)
    if not 1 <= size < 2**63:
        raise ValueError(text)
    return int(size)


@dataclass(frozen=True, slots=True)
class Setting:
    """How one value is read. `parse` takes what TOML holds and raises ValueError; `expected` says what is allowed."""

    parse: Callable[[object], object]
    expected: str
    number: bool = False  # text that looks like an integer is one


def _name(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(value)
    return value.strip()


def _one_of(*allowed: str) -> Setting:
    def parse(value: object) -> object:
        if value not in allowed:
            raise ValueError(value)
        return value

    return Setting(parse, "one of " + ", ".join(f'"{word}"' for word in allowed))


def _integer(minimum: int, maximum: int | None = None) -> Setting:
    def parse(value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum or value > (maximum or value):
            raise ValueError(value)
        return value

    allowed = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    return Setting(parse, f"an integer {allowed}", number=True)


def _or_none(setting: Setting, word: str) -> Setting:
    """Return the same setting, where `word` stands for None."""

    def parse(value: object) -> object:
        return None if value == word else setting.parse(value)

    return Setting(parse, f'{setting.expected}, or "{word}"', setting.number)


def _or_auto(setting: Setting) -> Setting:
    return _or_none(setting, "auto")


def _url(value: object) -> object:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(value)
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", value):
        raise ValueError(value)
    parts = urlsplit(value)  # raises ValueError for brackets around what is no address
    if not parts.hostname or parts.port == 0:  # `port` raises it for what is no number, or too large a one
        raise ValueError(value)
    if ":" not in parts.hostname:
        parts.hostname.encode("idna")  # it for a name that cannot be looked up
    return value.rstrip("/")


def _key(value: object) -> object:
    key = _name(value)
    if not key.isascii() or not key.isprintable():  # it goes into a header
        raise ValueError
    return key


def _boolean(value: object) -> object:
    words = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in words:
        raise ValueError(value)
    return words[value.lower()]


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else _integer(1).parse(value)


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "model": Setting(_name, "a preset, a checkpoint directory or a Hugging Face id"),
        "drafter": Setting(_name, 'a checkpoint directory, a Hugging Face id, "auto" or "none"'),
        "device": _one_of("auto", "cpu", "cuda"),
        "dtype": _one_of("auto", "float32", "float16", "bfloat16"),
        "memory": _or_auto(Setting(_size, 'a size such as "8GiB", "12GB" or "800M"', number=True)),
        "context_length": _or_auto(_integer(64)),
        "budget": _or_auto(_integer(1, MAX_BUDGET)),
        "verification": _one_of("keyed", "sequoia"),
        "layout": _or_auto(Setting(_name, "the name of a prompt layout")),
        "threads": _or_auto(_integer(1, MAX_THREADS)),
        "url": _or_none(Setting(_url, "an address such as https://host/v1"), "none"),
        "api_key": _or_none(Setting(_key, "the key of the server at url, in printable ASCII"), "none"),
        "daemon": Setting(_boolean, "true or false"),
        "idle_minutes": _or_none(_integer(1), "never"),
    }
)


def parse_text(key: str, text: str) -> object:
    """Read a setting from text (command line, environment). Raises ValueError with what was expected."""
    setting = SETTINGS[key]
    integer = setting.number and re.fullmatch(r"[+-]?[0-9]+", text.strip())
    try:
        return setting.parse(int(text) if integer else text)
    except ValueError:
        raise ValueError(f"{_shown(key, text)}: expected {setting.expected}") from None


def _shown(key: str, value: object) -> str:
    """Return a bad value as an error shows it: a key to somebody's server is told to nobody."""
    return "not usable" if key == "api_key" else repr(value)


# --- files and the environment ---------------------------------------------------------------------------------------


def config_path(environment: Mapping[str, str], file: Path | None = None) -> Path:
    """Return where the configuration is, there or not: `file`, what `TREELINE_CONFIG` names, or the user's own."""
    if named := file or environment.get("TREELINE_CONFIG"):
        return expanded(named)
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "treeline" / "config.toml"


def expanded(path: str | Path) -> Path:
    """Return a path with the user's folder for `~`. Raises TreelineError for the folder of nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise TreelineError(f"{path}: there is no such user, or no home folder") from None


def encodable(text: str) -> bool:
    """Whether `text` can be written as UTF-8: names of files need not be."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def read_config(path: Path) -> dict[str, object]:
    """Read and check the settings of a TOML file. Raises TreelineError naming the file and the line or the key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise TreelineError(_toml_message(path, error)) from None
    except UnicodeDecodeError as error:
        raise TreelineError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except FileNotFoundError:
        raise TreelineError(
            f"the configuration {path} does not exist: name one that does, or none (--config, TREELINE_CONFIG)"
        ) from None
    except OSError as error:
        raise TreelineError(f"cannot read the configuration {path}: {error.strerror}") from None
    return {key: _from_file(path, key, value) for key, value in table.items()}


def _toml_message(path: Path | str, error: tomllib.TOMLDecodeError) -> str:
    message = str(error)
    place = re.search(r"\(at line (\d+), column (\d+)\)", message)
    if place is not None:
        path, message = f"{path}:{place[1]}:{place[2]}", message[: place.start()].strip()  # else "(at end of document)"
    return f'{path}: {message}: settings are lines of TOML, such as model = "bundled" or threads = 4'


def _from_file(path: Path, key: str, value: object) -> object:
    if key not in SETTINGS:
        raise TreelineError(f'unknown key "{key}" in {path}: {closest(key, SETTINGS)}')
    try:
        parsed = SETTINGS[key].parse(value)
    except ValueError:
        raise TreelineError(f"{key} in {path} is {_shown(key, value)}: expected {SETTINGS[key].expected}") from None
    if key in ("model", "drafter") and isinstance(parsed, str) and parsed.startswith("."):
        return str(path.parent / parsed)  # relative to the file: every editor starts in a folder of its own
    return parsed


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key in SETTINGS:
        name = ENVIRONMENT_PREFIX + key.upper()
        if text := environment.get(name):
            try:
                values[key] = parse_text(key, text)
            except ValueError as error:
                raise TreelineError(f"the environment variable {name} is {error}") from None
    return values


def load_config(overrides: Mapping[str, object], file: Path | None, environment: Mapping[str, str]) -> EngineConfig:
    """Merge the settings from all sources, the strongest winning.

    `overrides`: checked values by key (the command line's). `file`: must exist if given; otherwise the variable
    `TREELINE_CONFIG` or the user's own file is read where there is one. Raises TreelineError.
    """
    path = config_path(environment, file)
    named = file is not None or environment.get("TREELINE_CONFIG")
    values = read_config(path) if named or path.exists() else {}
    merged = {**values, **_from_environment(environment), **overrides}
    return EngineConfig(**cast("dict[str, Any]", {**preset_settings(merged.get("model")), **merged}))
