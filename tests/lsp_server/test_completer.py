"""The way of a request: cache, rules, debounce, engine; what is cancelled and what goes on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from engine.errors import TreelineError
from engine.request import Branch
from lsp_server.ask import Answer, Ask
from lsp_server.completer import GRACE_SECONDS, Completer
from lsp_server.documents import Edit
from lsp_server.engine_client import EngineState
from lsp_server.options import Options
from tests.lsp_server.scripted import URI, ScriptedEngine, applied, asking, knows, place, says

FILE = "import os\n\n\ndef area(width, height):\n    result = width * height\n    return result\n"
QUIET = Options(debounce_ms=0, prefetch=False)


def made(engine: ScriptedEngine, options: Options = QUIET, busy: Callable[[bool], None] = lambda _: None) -> Completer:
    completer = Completer(engine, busy, lambda stats: None)
    completer.options = options
    return completer


def run(check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(check(), 20))


def texts(answer: Answer) -> list[str]:
    return [item.text for item in answer.items]


def test_typing_along_costs_no_pass_and_shows_the_same_item() -> None:
    async def check() -> None:
        engine = ScriptedEngine(knows(FILE))
        completer = made(engine)
        start = FILE.index("    result") + 4
        first = await completer.complete(asking(FILE[:start]))
        assert first.outcome.kind == "answered"
        item = first.items[0]
        assert item.text == "result = width * height\n    return result"
        for end in range(start + 1, FILE.index("\n    return")):
            answer = await completer.complete(asking(FILE[:end]))
            assert answer.outcome.kind == "typed through"
            assert (answer.items[0].text, answer.items[0].start) == (item.text, item.start)
            assert answer.items[0].end == end - FILE.rindex("\n", 0, end) - 1
            accepted = applied(FILE[:end], answer.items[0].text, answer.items[0].start, answer.items[0].end)
            assert accepted == FILE[:start] + item.text
        deleted = await completer.complete(asking(FILE[: start + 2], edit=Edit(4, 6, "", 1)))
        assert deleted.outcome.kind == "typed through", "deleting back into it too"
        below = FILE.index("    return") + 6
        answer = await completer.complete(asking(FILE[:below]))
        assert answer.outcome.kind == "typed through", "on its next line too"
        assert answer.items[0].text == "turn result"
        assert len(engine.requests) == 1

    run(check)


def test_cancelled_requests_are_not_kept_by_rings_of_references() -> None:
    async def check() -> None:
        engine = ScriptedEngine(lambda request: [asyncio.Event()])  # it never answers
        completer = made(engine)
        for number in range(10):  # some superseded, some cancelled
            task = asyncio.create_task(completer.complete(asking(f"x{number} = ")))
            await asyncio.sleep(0.001)
            if number % 2:
                task.cancel()
                await asyncio.wait([task])
            del task
        completer.stop()
        await asyncio.sleep(2 * GRACE_SECONDS)

    gc.collect()
    gc.disable()
    try:
        run(check)
        assert [each for each in gc.get_objects() if type(each) is Ask] == []
    finally:
        gc.enable()


def test_a_branch_that_says_all_is_not_continued() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: [("foo(bar)\n", [Branch(4, "qux)\nz", -1.0)])])
        works: list[bool] = []
        completer = made(engine, busy=works.append)
        await completer.complete(asking("x = "))
        engine.script = lambda request: [hold, ", 1)"]
        for typed in ("q", "qu"):
            assert texts(await completer.complete(asking(f"x = foo({typed}"))) == ["foo(qux)"]
            await asyncio.sleep(0.01)
            assert (engine.running, works[-1]) == (0, False)

    run(check)


def test_a_divergence_into_a_branch_is_answered_at_once_and_continued() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: [("foo(bar)", [Branch(4, "ba", -0.5), Branch(4, "qux", -1.0)])])
        completer = made(engine)
        await completer.complete(asking("x = "))
        engine.script = lambda request: [hold, ", 1)"]
        answer = await completer.complete(asking("x = foo(q"))
        assert answer.outcome.kind == "branch"
        assert texts(answer) == ["foo(qux"]
        assert engine.requests[-1].prefix == "x = foo(qux"
        hold.set()
        later = await completer.complete(asking("x = foo(qu"))
        assert texts(later) == ["foo(qux, 1)"]
        assert len(engine.requests) == 2

    run(check)


def test_the_newest_request_wins() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: [hold, "never"])
        completer = made(engine)
        first = asyncio.ensure_future(completer.complete(asking("x = ")))
        await asyncio.sleep(0.01)
        engine.script = says("42")
        second = await completer.complete(asking("y = "))
        assert texts(second) == ["42"]
        superseded = await first
        assert (superseded.items, superseded.outcome.kind) == ((), "superseded")
        await asyncio.sleep(0.01)
        assert engine.cancelled == 1
        assert engine.running == 0

    run(check)


def test_documents_do_not_disturb_each_other() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: [hold, "1"] if request.prefix == "x = " else ["2"])
        completer = made(engine)
        slow = asyncio.ensure_future(completer.complete(asking("x = ")))
        await asyncio.sleep(0.01)
        assert texts(await completer.complete(asking("y = ", uri="file:///w/b.py"))) == ["2"]
        hold.set()
        assert texts(await slow) == ["1"]
        assert engine.cancelled == 0

    run(check)


def test_a_cancelled_request_stops_the_engine_soon() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: [hold, "never"])
        task = asyncio.ensure_future(made(engine).complete(asking("x = ")))
        await asyncio.sleep(0.01)
        assert engine.running == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(3 * GRACE_SECONDS)
        assert (engine.running, engine.cancelled) == (0, 1)

    run(check)


def test_a_request_takes_over_what_a_cancelled_one_has_begun() -> None:
    """VS Code cancels a request with every key and sends another: what goes along is not computed twice."""

    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: ["foo(", hold, "bar)"])
        completer = made(engine, replace(QUIET, deadline_ms=60_000))
        first = asyncio.ensure_future(completer.complete(asking("x = ")))
        await asyncio.sleep(0.01)
        completer.changed(URI, place("x = f"))
        first.cancel()
        await asyncio.sleep(2 * GRACE_SECONDS)
        second = asyncio.ensure_future(completer.complete(asking("x = f")))
        await asyncio.sleep(3 * GRACE_SECONDS)
        assert engine.running == 1
        hold.set()
        assert texts(await second) == ["foo(bar)"]
        assert len(engine.requests) == 1

    run(check)


def test_a_key_that_contradicts_stops_the_engine_at_once() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: ["foo(", hold, "bar)"])
        completer = made(engine, replace(QUIET, deadline_ms=1))
        assert texts(await completer.complete(asking("x = "))) == ["foo("]
        completer.changed(URI, place("x = fo"))
        await asyncio.sleep(0.01)
        assert engine.running == 1
        completer.changed(URI, place("x = fx"))
        await asyncio.sleep(0.01)
        assert (engine.running, engine.cancelled) == (0, 1)

    run(check)


def test_at_the_deadline_whole_words_are_shown_and_the_rest_with_the_next_key() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: ["return wid", hold, "th * height"])
        completer = made(engine, replace(QUIET, deadline_ms=30))
        early = await completer.complete(asking("def f():\n    "))
        assert texts(early) == ["return"]
        assert early.outcome.detail == "more to come"
        hold.set()
        await asyncio.sleep(0.01)
        rest = await completer.complete(asking("def f():\n    r"))
        assert texts(rest) == ["return width * height"]
        assert len(engine.requests) == 1

    run(check)


def test_without_anything_verified_it_waits_beyond_the_deadline() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: [hold, "return 1"])
        task = asyncio.ensure_future(made(engine, replace(QUIET, deadline_ms=1)).complete(asking("def f():\n    ")))
        await asyncio.sleep(0.05)
        assert not task.done()
        hold.set()
        assert texts(await task) == ["return 1"]

    run(check)


def test_what_follows_an_accepted_suggestion_is_there_already() -> None:
    async def check() -> None:
        engine = ScriptedEngine(lambda request: ["1"] if request.prefix.endswith("= ") else ["y = 2\n"])
        completer = made(engine, replace(QUIET, prefetch=True))
        assert texts(await completer.complete(asking("if a:\n    x = "))) == ["1"]
        await asyncio.sleep(0.01)
        assert [request.prefix for request in engine.requests] == ["if a:\n    x = ", "if a:\n    x = 1\n    "]
        completer.changed(URI, place("if a:\n    x = 1"))
        accepted = await completer.complete(asking("if a:\n    x = 1"))
        assert (accepted.outcome.kind, accepted.items) == ("nothing", ()), "the line is complete"
        below = await completer.complete(asking("if a:\n    x = 1\n    "))
        assert (below.outcome.kind, texts(below)) == ("prefetched", ["y = 2"])
        assert len([request for request in engine.requests if request.prefix.endswith("1\n    ")]) == 1

    run(check)


def test_a_suggestion_that_was_cut_short_is_continued_where_it_ends() -> None:
    async def check() -> None:
        engine = ScriptedEngine(says("1 + 2"), finish_reason="length")
        completer = made(engine, replace(QUIET, prefetch=True))
        await completer.complete(asking("x = "))
        await asyncio.sleep(0.01)
        assert [request.prefix for request in engine.requests] == ["x = ", "x = 1 + 2"]

    run(check)


def test_what_is_computed_ahead_ends_where_nothing_more_of_it_would_be_shown() -> None:
    async def check() -> None:
        circles = ["y = 2\n    ", *(["total = 0\n    "] * 12), asyncio.Event()]
        engine = ScriptedEngine(lambda request: ["1"] if request.prefix == "if a:\n    x = " else circles)
        completer = made(engine, replace(QUIET, prefetch=True))
        await completer.complete(asking("if a:\n    x = "))
        await asyncio.sleep(0.01)
        assert (len(engine.requests), engine.running) == (2, 0)
        below = await completer.complete(asking("if a:\n    x = 1\n    "))
        assert (below.outcome.kind, texts(below)) == ("prefetched", ["y = 2\n    total = 0"])
        assert len([request for request in engine.requests if request.prefix.endswith("x = 1\n    ")]) == 1

    run(check)


def test_lines_that_end_with_carriage_returns_are_typed_along_with() -> None:
    async def check() -> None:
        engine = ScriptedEngine(lambda request: ["\n        a = 1\n    b = 2"] if ":" in request.prefix[-1:] else ["c"])
        completer = made(engine, replace(QUIET, prefetch=True))
        text = "def f():\r\n    if x:"
        first = await completer.complete(asking(text, "\r\n"))
        assert texts(first) == ["\n        a = 1"]
        await asyncio.sleep(0.01)
        assert engine.requests[0].prefix == "def f():\n    if x:"
        along = await completer.complete(asking(text + "\r\n        a", "\r\n"))
        assert (along.outcome.kind, texts(along)) == ("typed through", [" = 1"])
        below = await completer.complete(asking(text + "\r\n        a = 1\r\n        ", "\r\n"))
        assert (below.outcome.kind, texts(below)) == ("prefetched", ["c"])
        assert len([request for request in engine.requests if request.prefix.endswith("a = 1\n        ")]) == 1

    run(check)


def test_the_first_key_that_contradicts_ends_what_was_computed_ahead() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: ["12"] if request.prefix == "x = " else ["y", hold])
        completer = made(engine, replace(QUIET, prefetch=True))
        await completer.complete(asking("x = "))
        await asyncio.sleep(0.01)
        assert engine.running == 1
        completer.changed(URI, place("x = 1"))
        await asyncio.sleep(0.01)
        assert engine.running == 1, "it goes along"
        completer.changed(URI, place("x = 13"))
        await asyncio.sleep(0.01)
        assert engine.running == 0

    run(check)


def test_a_keystroke_that_should_not_ask_does_not() -> None:
    async def check() -> None:
        engine = ScriptedEngine(says("foo"))
        completer = made(engine)
        answer = await completer.complete(asking("x", edit=Edit(0, 1, "", 1)))
        assert answer.outcome.kind == "rule"
        assert engine.requests == []
        explicit = await completer.complete(asking("x", edit=Edit(0, 1, "", 1), invoked=True))
        assert texts(explicit) == ["foo"]

    run(check)


def test_nothing_is_said_twice_for_the_same_place() -> None:
    async def check() -> None:
        engine = ScriptedEngine(says("  \n"))
        completer = made(engine)
        for _ in range(3):
            answer = await completer.complete(asking("x = 1"))
            assert (answer.outcome.kind, answer.items) == ("nothing", ())
        assert len(engine.requests) == 1

    run(check)


def test_an_engine_that_loads_or_fails_gives_empty_lists_with_a_reason() -> None:
    async def check() -> None:
        engine = ScriptedEngine(says("foo"), ready=False, state=EngineState("loading", "m", "target", 3, 80))
        answer = await made(engine).complete(asking("x = "))
        assert (answer.items, answer.outcome.kind, answer.outcome.detail) == ((), "loading", "target 3/80")
        engine.state = EngineState("failed", message="no such model")
        answer = await made(engine).complete(asking("x = "))
        assert (answer.outcome.kind, answer.outcome.detail) == ("engine error", "no such model")
        broken = ScriptedEngine(lambda request: [TreelineError("it broke")])
        answer = await made(broken).complete(asking("x = "))
        assert (answer.items, answer.outcome.kind, answer.outcome.detail) == ((), "engine error", "it broke")

    run(check)


def test_the_selected_entry_of_the_menu_is_where_it_begins() -> None:
    async def check() -> None:
        engine = ScriptedEngine(knows("import os\nos.path.join(a)\n"))
        completer = made(engine)
        answer = await completer.complete(asking("import os\nos.p", "\n", selected=(3, 4, "path")))
        item = answer.items[0]
        assert (item.text, item.start, item.end) == ("path.join(a)", 3, 4)
        assert engine.requests[0].prefix == "import os\nos.path"

    run(check)


def test_an_explicit_request_gets_several_distinct_candidates() -> None:
    async def check() -> None:
        branches = [Branch(0, "bar", -0.5), Branch(0, "baz", -0.7), Branch(0, "foo", -0.1), Branch(0, "qux", -3.0)]
        engine = ScriptedEngine(
            lambda request: [("foo(1)", branches)] if request.prefix == "x = " else [f"({len(request.prefix)})"]
        )
        completer = made(engine)
        answer = await completer.complete(asking("x = ", invoked=True))
        assert texts(answer) == ["foo(1)", "bar(7)", "baz(7)"]
        count = len(engine.requests)
        again = await completer.complete(asking("x = ", invoked=True))
        assert texts(again) == texts(answer)
        assert len(engine.requests) == count
        assert texts(await completer.complete(asking("x = "))) == ["foo(1)"], "one by default"

    run(check)


def test_the_bracket_that_the_editor_closed_is_replaced() -> None:
    async def check() -> None:
        engine = ScriptedEngine(says("print(value)"))
        completer = made(engine)
        await completer.complete(asking("", "\n", invoked=True))
        answer = await completer.complete(asking("print(", ")\n"))
        item = answer.items[0]
        assert answer.outcome.kind == "typed through"
        assert applied("print(", item.text, item.start, item.end, ")\n") == "print(value)\n"

    run(check)


def test_closing_a_document_ends_its_work() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: [hold, "never"])
        completer = made(engine)
        task = asyncio.ensure_future(completer.complete(asking("x = ")))
        await asyncio.sleep(0.01)
        completer.close(URI)
        assert (await task).items == ()
        await asyncio.sleep(0.01)
        assert engine.running == 0

    run(check)


def test_text_that_comes_after_the_key_that_contradicts_it_stops_the_engine() -> None:
    async def check() -> None:
        first, second = asyncio.Event(), asyncio.Event()
        engine = ScriptedEngine(lambda request: [first, "foo(", second, "bar)"])
        completer = made(engine)
        other = asyncio.ensure_future(completer.complete(asking("x = ")))
        await asyncio.sleep(0.01)
        completer.changed(URI, place("x = q"))
        await asyncio.sleep(0.01)
        assert not other.done()
        first.set()
        assert (await other).items == ()
        await asyncio.sleep(0.01)
        assert engine.running == 0

    run(check)


def test_a_fragment_is_never_taken_for_a_suggestion() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: ["return some", hold, "thing"])
        completer = made(engine, replace(QUIET, deadline_ms=60_000))
        task = asyncio.ensure_future(completer.complete(asking("def f():\n    ")))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(3 * GRACE_SECONDS)
        assert engine.running == 0
        hold.set()
        again = await completer.complete(asking("def f():\n    "))
        assert texts(again) == ["return something"]

    run(check)


def test_keys_that_come_faster_than_the_first_words_do_not_stop_them() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: [hold, "return value"])
        completer = made(engine)
        tasks: list[asyncio.Task[Answer]] = []
        for typed in ("", "r", "re", "ret"):
            completer.changed(URI, place("def f():\n    " + typed))
            tasks.append(asyncio.ensure_future(completer.complete(asking("def f():\n    " + typed))))
            await asyncio.sleep(0.01)
        hold.set()
        answers = await asyncio.gather(*tasks)
        assert [answer.outcome.kind for answer in answers[:3]] == ["superseded"] * 3
        assert texts(answers[3]) == ["return value"]
        assert (len(engine.requests), engine.cancelled) == (1, 0)

    run(check)


def test_first_words_that_the_typing_leaves_are_asked_for_anew() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        engine = ScriptedEngine(lambda request: [hold, "return value"])
        completer = made(engine)
        first = asyncio.ensure_future(completer.complete(asking("def f():\n    ")))
        await asyncio.sleep(0.01)
        completer.changed(URI, place("def f():\n    y"))
        second = asyncio.ensure_future(completer.complete(asking("def f():\n    y")))
        await asyncio.sleep(0.01)
        engine.script = says("ield 1")
        hold.set()
        assert (await first).items == ()
        assert texts(await second) == ["ield 1"]
        assert engine.requests[-1].prefix.endswith("    y")

    run(check)


def test_candidates_that_do_not_come_in_time_are_left_out() -> None:
    async def check() -> None:
        hold = asyncio.Event()
        branches = [Branch(0, "bar", -0.5)]
        engine = ScriptedEngine(
            lambda request: [("foo", branches)] if request.budget is None and request.prefix == "x = " else [hold]
        )
        completer = made(engine, replace(QUIET, deadline_ms=50))
        assert texts(await completer.complete(asking("x = ", invoked=True))) == ["foo"]
        elsewhere = ScriptedEngine(says("foo"), tells_branches=False)
        assert texts(await made(elsewhere).complete(asking("x = ", invoked=True))) == ["foo"]
        assert len(elsewhere.requests) == 1

    run(check)
