"""From the name of a model to its directory: presets, directories and the local Hugging Face cache. Never downloads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from engine.config import PRESETS, EngineConfig, closest, find_preset
from engine.errors import TreelineError

ASSETS = Path(__file__).parent / "assets"
_BUNDLED = {"bundled": ASSETS / "target", "bundled-drafter": ASSETS / "drafter"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


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
        return _cached(preset.target, role)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise TreelineError(f"the {role} {name} is a file: give the directory that holds config.json and the weights")
    if _HUB_ID.fullmatch(name):
        return _cached(name, role)
    if path.is_absolute() or "/" in name or "\\" in name or name.startswith((".", "~")):
        raise TreelineError(f"the {role} {name} does not exist: give a directory with config.json and the weights")
    hint = closest(name, [preset.name for preset in PRESETS])
    raise TreelineError(f'the {role} "{name}" is no preset, no directory and no Hugging Face id (owner/name): {hint}')


def _bundled(name: str) -> Path:
    path = _BUNDLED[name]
    if not (path / "config.json").is_file():
        raise TreelineError(f"the bundled model is not installed ({path} is missing): reinstall Treeline")
    return path


def _cached(repository: str, role: str) -> Path:
    """Find the newest snapshot of `repository` in the Hugging Face cache (HF_HOME, HF_HUB_CACHE)."""
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise TreelineError(
            f"the {role} {repository} is no directory, and the Hugging Face cache needs huggingface_hub: "
            "pip install huggingface_hub"
        ) from None
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise TreelineError(
            f"the {role} {repository} is not on this machine: download it with `hf download {repository}`"
        ) from None
