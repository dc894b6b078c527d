"""What Treeline knows of published models: repositories, and presets that put them together for a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Repository:
    """A checkpoint on the Hugging Face hub. `size` in bytes of its weights; `exact` if not rounded."""

    id: str
    size: int
    licence: str
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Preset:
    """A target and the drafter that goes with it, as Hugging Face ids (the bundled pair: as names of its own).

    `memory` (bytes) and `context_length` (tokens) are what settings of those names are where the user says nothing.
    """

    name: str
    target: str
    drafter: str
    summary: str
    memory: int | None = None
    context_length: int | None = None

    @property
    def repositories(self) -> tuple[str, ...]:
        """The ids to download."""
        return () if self.target == "bundled" else (self.target, self.drafter)


_LLAMA_70B = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
_LLAMA_33_70B = "casperhansen/llama-3.3-70b-instruct-awq"
_CODE_DRAFTER = "InfiniAILab/CodeDrafter-500M"
_QWEN_32B = "Qwen/Qwen2.5-Coder-32B-Instruct-AWQ"
_QWEN_14B = "Qwen/Qwen2.5-Coder-14B-Instruct-AWQ"
_QWEN_7B = "Qwen/Qwen2.5-Coder-7B-Instruct-AWQ"
_QWEN_DRAFTER = "Qwen/Qwen2.5-Coder-0.5B-Instruct"

REPOSITORIES: Mapping[str, Repository] = MappingProxyType(
    {
        each.id: each
        for each in (
            Repository(_LLAMA_70B, 39_767_785_472, "Llama 3.1 Community", exact=True),
            Repository(_LLAMA_33_70B, 39_800_000_000, "Llama 3.3 Community"),
            Repository(_CODE_DRAFTER, 1_010_000_000, "see its card; its base is for research only"),
            Repository(_QWEN_32B, 19_300_000_000, "Apache-2.0"),
            Repository(_QWEN_14B, 10_000_000_000, "Apache-2.0"),
            Repository(_QWEN_7B, 5_600_000_000, "Apache-2.0"),
            Repository(_QWEN_DRAFTER, 990_000_000, "Apache-2.0"),
        )
    }
)

# A preset's plain name comes before those for a machine: a target's id stands for the first preset that has it.
PRESETS: tuple[Preset, ...] = (
    Preset("bundled", "bundled", "bundled-drafter", "the small Python pair that comes with Treeline"),
    Preset("llama-3.1-70b", _LLAMA_70B, _CODE_DRAFTER, "Llama 3.1 70B, AWQ int4"),
    Preset("llama-3.3-70b", _LLAMA_33_70B, _CODE_DRAFTER, "Llama 3.3 70B, AWQ int4"),
    Preset("qwen2.5-coder-32b", _QWEN_32B, _QWEN_DRAFTER, "32B, AWQ int4, fills in the middle"),
    Preset("qwen2.5-coder-14b", _QWEN_14B, _QWEN_DRAFTER, "14B, AWQ int4, fills in the middle"),
    Preset("qwen2.5-coder-7b", _QWEN_7B, _QWEN_DRAFTER, "7B, AWQ int4, fills in the middle"),
    Preset("gpu-12gb", _LLAMA_70B, _CODE_DRAFTER, "70B streamed through a GPU of 12 GB", 11 * GIB, 4096),
    Preset("gpu-16gb", _LLAMA_70B, _CODE_DRAFTER, "70B streamed through a GPU of 16 GB", 15 * GIB, 8192),
    Preset("gpu-24gb", _LLAMA_70B, _CODE_DRAFTER, "70B streamed through a GPU of 24 GB", 22 * GIB, 8192),
    Preset("gpu-48gb", _LLAMA_70B, _CODE_DRAFTER, "70B within a GPU of 48 GB", 44 * GIB, 8192),
    Preset("cpu", _QWEN_7B, _QWEN_DRAFTER, "7B on a CPU with 16 GB of memory", 10 * GIB, 8192),
)


def find_preset(name: str) -> Preset | None:
    """Find the preset of that name, or the first whose target has that Hugging Face id."""
    return next((preset for preset in PRESETS if name in (preset.name, preset.target)), None)


def preset_settings(name: object) -> dict[str, object]:
    """Return what the preset of that name, if there is one, sets besides its models."""
    preset = next((preset for preset in PRESETS if preset.name == name), None)
    values = {"memory": preset.memory, "context_length": preset.context_length} if preset else {}
    return {key: value for key, value in values.items() if value is not None}
