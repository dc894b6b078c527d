"""What `treeline bench replay` reports: what the typist saw, how long it took, and what it cost."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from engine.bench_replay import Load, Replay, ReplaySettings, Typed
from engine.bench_replay_editor import Asked
from engine.bench_report import hardware, percentile

WITHOUT_PASS = ("typed through", "branch", "prefetched")  # the server's reasons for an answer that waited for no pass
ASKING = (*WITHOUT_PASS, "answered", "nothing", "declined")  # those that an engine would have been asked for
_LISTED = 50  # faults, in full


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds from key to answer."""

    count: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """`answered` of `requests` were answered with text and without waiting for a pass."""

    requests: int
    answered: int
    share: float | None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that must not happen: "stale", "jumped", "vanished", or "error". `was`, `now`: the text shown."""

    kind: str
    case: str
    version: int
    detail: str
    was: str
    now: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that engines computed. `computed`: of prompts, `prompt` less `cached`, and `new` and `drafted` ones.

    `without_reuse`: the prompts alone, of an engine that reads its prompt, of the mean length, for each of the
    requests that would have woken one.
    """

    prompt: int
    cached: int
    new: int
    drafted: int
    computed: int
    without_reuse: int
    ratio: float | None


def times(asked: Iterable[Asked]) -> Times:
    """Summarise how long answers took."""
    values = [each.ms for each in asked]
    if not values:
        return Times(0, None, None)
    return Times(len(values), statistics.median(values), percentile(values, 0.95))


def share(asked: Iterable[Asked]) -> Share:
    """Count what was answered with no pass."""
    listed = list(asked)
    answered = sum(without_pass(each) for each in listed)
    return Share(len(listed), answered, answered / len(listed) if listed else None)


def without_pass(asked: Asked) -> bool:
    """Whether a request was given text without waiting for a pass."""
    return asked.reason in WITHOUT_PASS and asked.offered is not None


def faults(typed: Typed) -> list[Fault]:
    """List what went wrong while a case was typed."""
    return [found for asked in typed.asked for found in _faults(typed.case.id, asked)]


def _faults(case: str, asked: Asked) -> list[Fault]:
    now = asked.offered.text if asked.offered else ""
    found: list[tuple[str, str]] = []
    if asked.fault:
        found.append(("stale", asked.fault))
    elif asked.offered is not None and not asked.reason:
        found.append(("stale", "the server does not know of having answered for this version"))
    if asked.seen in ("jumped", "vanished"):
        found.append((asked.seen, asked.reason))
    if asked.end in ("error", ""):
        found.append(("error", "an error" if asked.end else "no answer"))
    return [Fault(kind, case, asked.version, detail, asked.was, now) for kind, detail in found]


def tokens(before: Load, after: Load, asking: int) -> Tokens:
    """Compare what the engine computed with what one without reuse would have, for `asking` requests."""
    grown = {name: int(value - before.counters.get(name, 0.0)) for name, value in after.counters.items()}
    prompt, cached = grown.get("prompt_tokens", 0), grown.get("cached_tokens", 0)
    new, drafted = grown.get("new_tokens", 0), grown.get("drafted_tokens", 0)
    computed = prompt - cached + new + drafted
    requests = grown.get("requests", 0)
    other = round(prompt / requests * asking) if requests else 0
    return Tokens(prompt, cached, new, drafted, computed, other, other / computed if computed else None)


def report(replay: Replay, settings: ReplaySettings, shown: Mapping[str, object], version: str) -> dict[str, object]:
    """Put together the JSON object of `bench replay`; `shown` goes into it as the settings of the engine."""
    asked = [each for typed in replay.typed for each in typed.asked]
    along = [each for each in asked if each.along]
    wrong = [each for typed in replay.typed for each in faults(typed)]
    kinds = Counter(each.kind for each in wrong)
    ends = Counter(each.end for each in asked)
    grown = {name: value - replay.before.counters.get(name, 0.0) for name, value in replay.after.counters.items()}
    return {
        "cases": len(replay.typed),
        "keystrokes": sum(each.keys for each in replay.typed),
        "characters_typed": sum(each.characters for each in replay.typed),
        "characters_saved": sum(each.saved for each in replay.typed),
        "suggestions_accepted": sum(each.accepted for each in replay.typed),
        "suggestions_shown": sum(each.seen in ("new", "jumped") for each in asked),
        "stale": kinds["stale"],
        "jumping": kinds["jumped"],
        "vanishing": kinds["vanished"],
        "requests": len(asked),
        "requests_with_text": sum(each.offered is not None for each in asked),
        "requests_cancelled": ends["cancelled"],
        "requests_overtaken": ends["late"],
        "requests_failed": kinds["error"] + replay.strays,
        "without_pass": asdict(share(asked)),
        "without_pass_typing_along": asdict(share(along)),
        "key_to_answer_ms": {
            "all": asdict(times(each for each in asked if each.end != "cancelled")),
            "with_text": asdict(times(each for each in asked if each.offered)),
            "without_pass": asdict(times(each for each in asked if without_pass(each))),
            "without_pass_typing_along": asdict(times(each for each in along if without_pass(each))),
        },
        "outcomes": dict(Counter(each.reason or "none noted" for each in asked).most_common()),
        "outcomes_typing_along": dict(Counter(each.reason or "none noted" for each in along).most_common()),
        "tokens": asdict(tokens(replay.before, replay.after, sum(each.reason in ASKING for each in asked))),
        "engine_requests": int(grown.get("requests", 0)),
        "engine_passes": int(grown.get("target_passes", 0)),
        "engine_cancelled": int(grown.get("cancelled", 0)),
        "memory_bytes": {
            "server": [replay.before.server_bytes, replay.after.server_bytes],
            "daemon": [replay.before.daemon_bytes, replay.after.daemon_bytes],
        },
        "start_ms": {"median": statistics.median(replay.start_ms) if replay.start_ms else None, "all": replay.start_ms},
        "texts_differing": sum(not each.same_text for each in replay.typed),
        "server_statistics": dict(replay.statistics),
        "faults": [asdict(each) for each in wrong[:_LISTED]],
        "server_stderr": list(replay.stderr)[-_LISTED:],
        "settings": {**shown, **asdict(settings)},
        "hardware": asdict(hardware()),
        "version": version,
    }


def failures(answer: Mapping[str, object]) -> str:
    """Say what in a report must not be, in one line; nothing if all is well. Times and shares are not judged."""
    must_be_none = {
        "stale": "stale suggestions",
        "jumping": "jumping suggestions",
        "requests_failed": "requests without a proper answer",
        "texts_differing": "documents that differ from the typist's",
    }
    return ", ".join(f"{answer[key]} {words}" for key, words in must_be_none.items() if answer[key])


def rows(answer: Mapping[str, object]) -> Sequence[tuple[str, str]]:
    """Return the report as a table for people: what, and how much."""
    times_of: Mapping[str, Mapping[str, float | None]] = answer["key_to_answer_ms"]  # pyright: ignore[reportAssignmentType]
    names = {
        "cases": "cases",
        "keystrokes": "keys pressed",
        "characters_typed": "characters",
        "characters_saved": "of which by accepting",
        "suggestions_shown": "suggestions shown",
        "suggestions_accepted": "accepted",
        "stale": "stale",
        "jumping": "jumping",
        "vanishing": "vanishing",
        "requests": "requests",
        "requests_cancelled": "cancelled by the editor",
        "engine_requests": "requests to the engine",
        "engine_cancelled": "of which cancelled",
        "texts_differing": "documents that differ",
    }
    listed = [(text, str(answer[key])) for key, text in names.items()]
    for key, text in (
        ("without_pass", "answered with no pass"),
        ("without_pass_typing_along", "the same, typing along"),
    ):
        part: Mapping[str, float | None] = answer[key]  # pyright: ignore[reportAssignmentType]
        listed.append((text, f"{_percent(part['share'])} of {part['requests']}"))
    for key, text in (("all", "key to answer"), ("without_pass", "the same, no pass")):
        listed.append((f"{text}, p50 / p95", f"{_number(times_of[key]['p50'])} / {_number(times_of[key]['p95'])} ms"))
    spent: Mapping[str, float | None] = answer["tokens"]  # pyright: ignore[reportAssignmentType]
    start: Mapping[str, float | None] = answer["start_ms"]  # pyright: ignore[reportAssignmentType]
    listed.append(("tokens computed / without reuse", f"{spent['computed']} / {spent['without_reuse']}"))
    listed.append(("start to initialize, median", f"{_number(start['median'])} ms"))
    memory: Mapping[str, Sequence[int | None]] = answer["memory_bytes"]  # pyright: ignore[reportAssignmentType]
    for name, sizes in memory.items():
        first, last = (f"{size / 2**20:.0f}" if size else "?" for size in sizes)
        listed.append((f"memory of the {name}, start / end", f"{first} / {last} MiB"))
    return listed


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
