"""Reading cases, running them and what is reported. The engine here is a script: what is measured is known."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.bench import BenchSettings, Case, Outcome, Result, logit_gap, read_cases, run_cases
from engine.bench_report import figures, percentile, report
from engine.errors import TreelineError
from engine.request import CompletionChunk, CompletionRequest, CompletionStats, SamplingParams

CASE = {"id": "a", "language": "python", "path": "a.py", "prefix": "x = ", "suffix": "\n", "expected": "1"}
SETTINGS = BenchSettings(max_tokens=8, sampling=SamplingParams())


def stats(tokens: int, passes: int) -> CompletionStats:
    return CompletionStats(10, 0, tokens, passes, tokens / passes, 3 * passes, 1.0, 1.0, 2.0, 100.0, 1 << 20)


class ScriptedEngine:
    """Says the suffix's words, four a pass with speculation; `slip` makes the speculative answer differ once."""

    def __init__(self, slip: str | None = None) -> None:
        self.calls: list[tuple[str, bool, int]] = []
        self.forgotten = 0
        self.slip = slip

    def forget(self) -> None:
        self.forgotten += 1

    def logit_gap(self, request: CompletionRequest, tokens: Sequence[int]) -> float:
        return len(tokens) / 8 + (0.5 if request.speculation else 0.0)

    def complete(
        self, request: CompletionRequest, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[CompletionChunk]:
        self.calls.append((request.path, request.speculation, request.max_tokens))
        tokens = list(range(request.max_tokens))
        if request.speculation and request.path == self.slip and len(tokens) > 2:
            tokens[2] = 99
        step = 4 if request.speculation else 1
        passes = 0
        for start in range(0, len(tokens), step):
            if cancelled():
                yield CompletionChunk("", (), "cancelled", stats(max(start, 1), max(passes, 1)))
                return
            time.sleep(0.001)
            passes += 1
            yield CompletionChunk("w ", tuple(tokens[start : start + step]))
        yield CompletionChunk("", (), "length", stats(len(tokens), passes))


def cases(count: int) -> list[Case]:
    return [
        Case(str(n), "python", f"{n}.py", "", "", "w w \nmore", "even" if n % 2 == 0 else "odd") for n in range(count)
    ]


def test_cases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    rows = [CASE, {**CASE, "id": "b", "kind": "mid-line", "note": "other fields are left alone"}]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    assert read_cases(path) == [Case(**CASE), Case(**{**CASE, "id": "b"}, kind="mid-line")]
    assert len(read_cases(path, limit=1)) == 1


def test_line_separators_inside_strings_do_not_end_a_case(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({**CASE, "prefix": "a\u2028b\x0c\x85"}, ensure_ascii=False), encoding="utf-8")
    assert read_cases(path)[0].prefix == "a\u2028b\x0c\x85"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", ":2: not JSON ("),
        ("[1]", ":2: expected an object"),
        (json.dumps({k: v for k, v in CASE.items() if k != "suffix"}), ':2: the field "suffix" is missing'),
        (json.dumps({**CASE, "prefix": 3}), ':2: the field "prefix" is 3: expected a string'),
        (json.dumps({**CASE, "kind": None}), ':2: the field "kind" is None: expected a string'),
    ],
)
def test_a_malformed_case_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(CASE) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(TreelineError) as error:
        read_cases(path)
    assert str(error.value).startswith(f"{path}{complaint}")


def test_a_file_without_cases_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("\n\n")
    with pytest.raises(TreelineError, match="holds no cases"):
        read_cases(path)
    path.write_bytes(b"\xff")
    with pytest.raises(TreelineError, match="not UTF-8"):
        read_cases(path)
    with pytest.raises(TreelineError, match="cannot read the cases"):
        read_cases(tmp_path)


def test_modes_alternate_and_the_warm_up_is_not_counted() -> None:
    engine = ScriptedEngine()
    results = run_cases(engine, cases(3), SETTINGS, lambda _: None, lambda: False)
    timed = [(path, speculation) for path, speculation, _ in engine.calls[1::2]]  # each after reading its prompt
    assert timed[:2] == [("0.py", True), ("0.py", False)]
    assert timed[2:] == [
        ("0.py", True),
        ("0.py", False),
        ("1.py", False),
        ("1.py", True),
        ("2.py", True),
        ("2.py", False),
    ]
    assert [result.case.id for result in results] == ["0", "1", "2"]
    assert all(r.speculative.stats.target_passes == 2 and r.autoregressive.stats.target_passes == 8 for r in results)


def test_the_prompt_is_read_in_the_same_mode_before_each_timed_run() -> None:
    engine = ScriptedEngine()
    run_cases(engine, cases(2), SETTINGS, lambda _: None, lambda: False)
    for before, timed in zip(engine.calls[::2], engine.calls[1::2], strict=True):
        assert before == timed
    assert engine.forgotten == len(engine.calls) // 2  # an answer that is remembered would make a perfect draft


def test_fresh_empties_the_caches_before_each_run() -> None:
    engine = ScriptedEngine()
    settings = BenchSettings(8, SamplingParams(), fresh=True)
    run_cases(engine, cases(2), settings, lambda _: None, lambda: False)
    assert engine.forgotten == len(engine.calls) == 6


def test_a_mismatch_is_reported_with_its_place_tokens_and_gap() -> None:
    engine = ScriptedEngine(slip="1.py")
    results = run_cases(engine, cases(4), SETTINGS, lambda _: None, lambda: False)
    found = report(results, lambda r, at: logit_gap(engine, r, at, SETTINGS), {"seed": 1}, "0.0")
    answer = json.loads(json.dumps(found, allow_nan=False))
    assert answer["cases"] == 4
    assert answer["mismatches"] == 1
    assert answer["mismatch_details"] == [
        {"id": "1", "position": 2, "speculative_token": 99, "autoregressive_token": 2, "logit_gap": 0.25}
    ]
    assert answer["accepted_per_pass"] == 4.0
    assert answer["settings"] == {"seed": 1}
    assert set(answer["by_kind"]) == {"even", "odd"}


def test_an_output_that_ends_earlier_is_a_mismatch() -> None:
    short = Outcome("", (1, 2), "stop", stats(2, 1), 1.0)
    long = Outcome("", (1, 2, 3), "length", stats(3, 3), 1.0)
    assert Result(cases(1)[0], short, long).mismatch == 2
    assert Result(cases(1)[0], long, long).mismatch is None


def outcome(milliseconds: float, tokens: int = 10, text: str = "") -> Outcome:
    return Outcome(text, tuple(range(tokens)), "length", stats(tokens, 5), milliseconds)


def test_rates_are_medians_and_totals() -> None:
    ours, theirs = (100.0, 200.0, 1000.0), (200.0, 600.0, 1000.0)
    results = [Result(case, outcome(a), outcome(b)) for case, a, b in zip(cases(3), ours, theirs, strict=True)]
    row = figures(results)
    assert row.tokens_per_second == pytest.approx(50)
    assert row.autoregressive_tokens_per_second == pytest.approx(10 / 0.6)
    assert row.speedup == pytest.approx(2.0)
    assert row.total_tokens_per_second == pytest.approx(30 / 1.3)
    assert row.total_speedup == pytest.approx(1800 / 1300)
    assert (row.latency_ms.p50, row.latency_ms.p95) == (200, 1000)
    assert row.new_tokens == 30
    assert row.accepted_per_pass == 2.0


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100])
def test_percentiles_are_numpys_nearest_rank(count: int) -> None:
    values = list(np.random.default_rng(count).permutation(count).astype(float))
    for share in (0.05, 0.5, 0.95, 1.0):
        assert percentile(values, share) == np.percentile(values, 100 * share, method="inverted_cdf")


@pytest.mark.parametrize(
    ("text", "expected", "matches"),
    [
        ("return x\n\n", "return x  \n    more", True),
        ("return x", "return x", True),
        ("return y", "return x", False),
        (" return x", "return x", False),
        ("", "return x", False),
    ],
)
def test_the_first_line_decides(text: str, expected: str, matches: bool) -> None:
    case = Case("a", "", "", "", "", expected)
    assert Result(case, outcome(1.0, text=text), outcome(1.0)).line_matches is matches


def test_an_interrupt_ends_the_run() -> None:
    engine = ScriptedEngine()
    with pytest.raises(KeyboardInterrupt):
        run_cases(engine, cases(3), SETTINGS, lambda _: None, lambda: len(engine.calls) > 5)
    assert len(engine.calls) == 6


def test_empty_outputs_do_not_break_the_report() -> None:
    empty = Outcome("", (), "stop", stats(0, 1), 5.0)
    answer = report([Result(cases(1)[0], empty, empty)], lambda _r, _p: 0.0, {}, "0")
    assert answer["tokens_per_second"] == 0.0
    json.dumps(answer, allow_nan=False)
