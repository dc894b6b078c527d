"""Counters of the service in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping

from engine.request import CompletionStats

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Histogram:
    """Counts of observations up to each bound, in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * len(_SECONDS)
        self._total = 0
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self._total += 1
        self._sum += seconds
        for index, bound in enumerate(_SECONDS):
            self._counts[index] += seconds <= bound

    def lines(self, name: str, text: str) -> Iterator[str]:
        """Yield it as text."""
        yield f"# HELP {name} {text}\n# TYPE {name} histogram"
        for bound, count in zip(_SECONDS, self._counts, strict=True):
            yield f'{name}_bucket{{le="{bound}"}} {count}'
        yield f'{name}_bucket{{le="+Inf"}} {self._total}'
        yield f"{name}_sum {self._sum}"
        yield f"{name}_count {self._total}"


_COUNTERS = {
    "prompt_tokens": "Tokens of prompts.",
    "cached_tokens": "Tokens of prompts that were taken from the KV cache.",
    "new_tokens": "Tokens of completions. Over target_passes: how many a pass yields.",
    "target_passes": "Passes of the target that chose tokens.",
    "drafted_tokens": "Draft nodes that the target checked.",
}


class Metrics:
    """What the service has done since it started. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._counters: Counter[str] = Counter()
        self._first_token = Histogram()
        self._queued = Histogram()
        self._bytes = 0

    def started(self, waited: float) -> None:
        """Count a request that the engine began after `waited` seconds."""
        with self._lock:
            self._queued.observe(waited)

    def finished(self, kind: str, reason: str, stats: CompletionStats | None) -> None:
        """Count a request that ended, and what it cost."""
        with self._lock:
            self._requests[kind, reason] += 1
            if stats is not None:
                self._counters.update({name: getattr(stats, name) for name in _COUNTERS})
                if stats.new_tokens:
                    self._first_token.observe(stats.first_token_ms / 1000)

    def failed(self, kind: str) -> None:
        """Count a request that ended in an error."""
        with self._lock:
            self._requests[kind, "error"] += 1

    def sent(self, count: int) -> None:
        """Count bytes of answers."""
        with self._lock:
            self._bytes += count

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Return everything as text; `gauges` are values of this moment, with their explanations."""
        with self._lock:
            lines = [
                "# HELP treeline_requests_total Requests by kind and end.",
                "# TYPE treeline_requests_total counter",
            ]
            for (kind, reason), count in sorted(self._requests.items()):
                lines.append(f'treeline_requests_total{{kind="{kind}",end="{reason}"}} {count}')
            counters = {name: (text, self._counters[name]) for name, text in _COUNTERS.items()}
            counters["response_bytes"] = ("Bytes of answers sent to clients.", self._bytes)
            for name, (text, value) in counters.items():
                full = f"treeline_{name}_total"
                lines.append(f"# HELP {full} {text}\n# TYPE {full} counter\n{full} {value}")
            lines += self._first_token.lines(
                "treeline_first_token_seconds", "From the engine's start to the first text."
            )
            lines += self._queued.lines("treeline_queue_seconds", "Time that requests waited for the engine.")
        for name, (text, value) in gauges.items():
            full = f"treeline_{name}"
            lines.append(f"# HELP {full} {text}\n# TYPE {full} gauge\n{full} {value}")
        return "\n".join(lines) + "\n"
