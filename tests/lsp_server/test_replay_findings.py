"""What replaying typists has found: each of these once made a suggestion jump, go stale, or come late."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncGenerator

import pytest
from lsprotocol import types

from engine.request import CompletionChunk
from lsp_server import logs
from lsp_server.cache import SuggestionCache, typed_since
from lsp_server.documents import Document
from lsp_server.generation import Generation
from lsp_server.pace import Pace
from lsp_server.suggestion import against_closers
from lsp_server.view import View, view_of


def view(text: str) -> View:
    """A place, marked ^."""
    before, _, after = text.partition("^")
    document = Document("file:///a.py", before + after, 1, "python", "utf-32")
    return view_of(document.snapshot(types.Position(before.count("\n"), len(before.rpartition("\n")[2]))))


@pytest.mark.parametrize(
    ("origin", "now", "found"),
    [
        ("f(a[^])\nx\n", "f(a[b^])\nx\n", ("b", 0)),
        ("f(a[^])\nx\n", "f(a[b]^)\nx\n", ("b]", -1)),
        ("f(a[^])\nx\n", "f(a[b])^\nx\n", ("b])", -2)),
        ("f(a[^])\nx\n", "f(a[b^)\nx\n", None),  # deleted, not typed over
        ("f(^\n", "f(g(^)\n", ("g(", 1)),
        ("f(^\n", "f(g()^\n", ("g()", 0)),
    ],
)
def test_a_closer_that_is_typed_over_is_typed(origin: str, now: str, found: tuple[str, int] | None) -> None:
    assert typed_since(view(origin), view(now)) == found


def test_a_suggestion_goes_on_behind_a_closer_that_is_typed_over() -> None:
    cache = SuggestionCache()
    known = Generation(view("f(a[^])\nx\n"), "b]) + 1")
    cache.add(known)
    hit = cache.find(view("f(a[b]^)\nx\n"))
    assert hit is not None
    assert (hit.generation, hit.typed, hit.text) == (known, "b]", "b]) + 1")


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [("b])", "f(a[^])", ("b])", 2)), ("b]]", "f(a[^])", ("b]]", 1)), ("b})", "f(a[^])", ("b})", 0))],
)
def test_only_closers_that_come_again_are_taken_away(text: str, at: str, expected: tuple[str, int]) -> None:
    assert against_closers(text, view(at)) == expected


def test_many_lines_further_down_nothing_is_compared() -> None:
    """A suggestion of one line cannot have been typed through two lines further down; one of three lines can."""
    for text, there in (("b", False), ("b\n\nc", True)):
        cache = SuggestionCache()
        cache.add(Generation(view("a^\n"), text))
        assert (cache.find(view("ab\n\n^\n")) is not None) == there


def test_one_slow_answer_is_soon_forgotten() -> None:
    pace = Pace()
    for seconds in (2.0, 0.01, 0.01):
        pace.answered(seconds)
    assert pace.cost == 0.01
    assert pace.delay() == 0.0


class Large:
    """Stands for a request's text."""


def test_a_cancelled_generation_does_not_keep_its_request() -> None:
    async def run() -> tuple[Generation, weakref.ref[Large]]:
        large = Large()
        kept = weakref.ref(large)

        async def stream(_: Large) -> AsyncGenerator[CompletionChunk]:
            yield CompletionChunk("x", ())
            await asyncio.Event().wait()

        generation = Generation(view("a^"))
        ended = asyncio.Event()
        generation.run(stream(large), lambda _: None, lambda _: ended.set())
        del large
        await generation.grown(None)
        generation.cancel()
        await ended.wait()
        while generation.live:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return generation, kept

    generation, kept = asyncio.run(run())
    gc.collect()
    assert generation.text == "x"
    assert kept() is None


def test_what_happens_with_every_fast_key_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.start("info")
        logging.getLogger("pygls.protocol.json_rpc").warning('Cancel notification for unknown message id "%s"', 3)
        logging.getLogger("pygls.protocol.json_rpc").error("something else")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
    assert capsys.readouterr().err.count("\n") == 1
