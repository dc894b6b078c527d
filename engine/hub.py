"""From the name of a model to its directory: presets, directories and the local Hugging Face cache. Never downloads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from engine.config import EngineConfig, closest, encodable, expanded
from engine.errors import TreelineError
from engine.models import PRESETS, find_preset

ASSETS = Path(__file__).parent / "assets"
_BUNDLED = {"bundled": ASSETS / "target", "bundled-drafter": ASSETS / "drafter"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

# Of a repository these files are used: the weights, how the model is built, its tokenizer, its terms.
WANTED = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "*.md",
    "LICENSE*",
    "NOTICE*",
)
UNWANTED = ("*/*", "consolidated*")  # other formats' copies of the weights


@dataclass(frozen=True, slots=True)
class Pair:
    """Checkpoint directories of a target and its drafter; no drafter means n-grams alone."""

    target: Path
    drafter: Path | None


def resolve_pair(config: EngineConfig) -> Pair:
    """Find the directories that `config.model` and `config.drafter` name. Raises TreelineError."""
    target = resolve(config.model, "model")
    if config.drafter == "none":
        return Pair(target, None)
    if config.drafter != "auto":
        return Pair(target, resolve(config.drafter, "drafter"))
    preset = find_preset(config.model)
    if preset is None:
        return Pair(target, None)
    try:
        return Pair(target, resolve(preset.drafter, "drafter"))
    except TreelineError as error:
        raise TreelineError(f"{error}; or go without it: --drafter none") from None


def resolve(name: str, role: str = "model") -> Path:
    """Find the checkpoint directory of a preset, a directory or a Hugging Face id that is in the local cache.

    `role` ("model" or "drafter") names the option in messages. Raises TreelineError saying how to get what is missing.
    """
    if name in _BUNDLED:
        return _bundled(name)
    preset = find_preset(name)
    if preset is not None:
        return _cached(preset.target, role, name)  # of a preset's name, both target and drafter are pulled
    path = expanded(name)
    if path.is_dir():
        if not encodable(str(path.absolute())):
            raise TreelineError(f"the {role} {name!r} lies in a folder whose name is not UTF-8: rename it")
        return path
    if path.exists():
        raise TreelineError(f"the {role} {name} is a file: give the directory that holds config.json and the weights")
    if is_id(name):
        return _cached(name, role, name)
    if path.is_absolute() or "/" in name or "\\" in name or name.startswith((".", "~")):
        raise TreelineError(f"the {role} {name} does not exist: give a directory with config.json and the weights")
    raise TreelineError(f"the {role} {unknown(name)}")


def is_id(name: str) -> bool:
    """Say whether `name` reads like an id on the Hugging Face hub: owner/name."""
    return _HUB_ID.fullmatch(name) is not None


def unknown(name: str) -> str:
    """Say that nothing is called `name`, and what was perhaps meant."""
    hint = closest(name, [preset.name for preset in PRESETS])
    return f'"{name}" is no preset, no directory and no Hugging Face id (owner/name): {hint}'


def _bundled(name: str) -> Path:
    path = _BUNDLED[name]
    if not (path / "config.json").is_file():
        raise TreelineError(f"the bundled model is not installed ({path} is missing): reinstall Treeline")
    return path


def _cached(repository: str, role: str, name: str) -> Path:
    path = downloaded(repository)
    if path is None:
        raise TreelineError(
            f"the {role} {repository} is not on this machine: download it with `treeline models pull {name}`"
        )
    return path


def name_of(directory: Path) -> str:
    """Return what the model in `directory` is called: never where it lies, which is nobody else's business."""
    bundled = next((name for name, path in _BUNDLED.items() if path == directory), None)
    if bundled is not None:
        return bundled
    entry = directory.parent.parent.name  # of the Hugging Face cache, where folders are called by revisions
    if directory.parent.name == "snapshots" and entry.startswith("models--"):
        return entry.removeprefix("models--").replace("--", "/", 1)
    return directory.name


def downloaded(repository: str) -> Path | None:
    """Return the newest complete snapshot of `repository` in the Hugging Face cache (HF_HOME, HF_HUB_CACHE), or None.

    Raises TreelineError if the cache cannot be read for want of huggingface_hub.
    """
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise TreelineError("the Hugging Face cache needs huggingface_hub: pip install huggingface_hub") from None
    download = cast("Any", snapshot_download)
    wanted, unwanted = list(WANTED), list(UNWANTED)
    try:
        found = download(repository, local_files_only=True, allow_patterns=wanted, ignore_patterns=unwanted)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(found)
