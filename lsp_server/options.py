"""What an editor may set: how Treeline behaves. Which model runs is the user's own configuration, not the editor's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

SECTION = "treeline"


@dataclass(frozen=True, slots=True)
class Options:
    """Settings, in snake case here and in camel case in editors (`treeline.maxTokens`). The only copy of the defaults.

    `enabled`: suggest at all. `disabled_languages`: language ids without suggestions. `debounce_ms`: wait so long
    after a keystroke, None to follow the typing and the model's speed. `max_tokens`: of one suggestion. `deadline_ms`:
    show what is verified by then, the rest with the next keystroke. `max_candidates`: of an explicit request.
    `min_confidence`: ask the target only if the drafter is so sure of its first token (0: always). `prefetch`: go on
    behind a suggestion before it is accepted. `workspace_context`: let other files into the prompt.
    `completion_fallback`: also answer `textDocument/completion`, for editors without inline completion.
    """

    enabled: bool = True
    disabled_languages: tuple[str, ...] = ()
    debounce_ms: int | None = None
    max_tokens: int = 64
    deadline_ms: int = 1500
    max_candidates: int = 3
    min_confidence: float = 0.0
    prefetch: bool = True
    workspace_context: bool = True
    completion_fallback: bool = False


_LIMITS: Mapping[str, tuple[float, float]] = {
    "debounce_ms": (0, 10_000),
    "max_tokens": (1, 4096),
    "deadline_ms": (1, 600_000),
    "max_candidates": (1, 8),
    "min_confidence": (0, 1),
}
_WHOLE = ("debounce_ms", "max_tokens", "deadline_ms", "max_candidates")
NAMES: Mapping[str, str] = {
    "".join([name.split("_")[0], *(word.title() for word in name.split("_")[1:])]): name
    for name in (field.name for field in fields(Options))
}


def read_options(old: Options, settings: object) -> tuple[Options, list[str]]:
    """Put a client's settings over `old`; return the result and one line for each that is unknown or wrong.

    `settings` may be the section itself or an object that holds it. What is null is left as it was, save
    `debounceMs`, where null is a value.
    """
    if not isinstance(settings, Mapping):
        return old, [] if settings is None else [f"the settings are {settings!r}: expected an object"]
    given = cast("Mapping[str, object]", settings)
    inner = given.get(SECTION, given)
    if inner is given and _of_others(given):
        return old, []
    if not isinstance(inner, Mapping):
        return old, [] if inner is None else [f"{SECTION} is {inner!r}: expected an object"]
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for key, value in cast("Mapping[str, object]", inner).items():
        name = NAMES.get(key)
        if name is None:
            wrong.append(f"{SECTION}.{key} is no setting: known are {', '.join(NAMES)}")
        elif value is None:
            if name == "debounce_ms":
                values[name] = None
        else:
            expected = _expected(name, value)
            if expected:
                wrong.append(f"{SECTION}.{key} is {value!r}: expected {expected}")
            else:
                values[name] = tuple(cast("list[str]", value)) if name == "disabled_languages" else value
    return replace(old, **values), wrong


def _of_others(settings: Mapping[str, object]) -> bool:
    """Whether these are sections of other servers: some clients send all that they have to each."""
    return not any(key in NAMES for key in settings) and any(isinstance(each, Mapping) for each in settings.values())


def _expected(name: str, value: object) -> str:
    """Return what `value` should have been, or nothing if it is good."""
    if name == "disabled_languages":
        items = cast("list[object]", value) if isinstance(value, list | tuple) else [None]
        return "" if all(isinstance(item, str) for item in items) else "a list of language ids"
    if name not in _LIMITS:
        return "" if isinstance(value, bool) else "true or false"
    low, high = _LIMITS[name]
    kind = int if name in _WHOLE else int | float
    good = isinstance(value, kind) and not isinstance(value, bool) and low <= cast("float", value) <= high
    return "" if good else f"{'a whole' if name in _WHOLE else 'a'} number from {low:g} to {high:g}"
