"""Suggestions answer for the places that typing along leads to, and for no others."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.request import Branch
from lsp_server.cache import LARGEST, SuggestionCache, typed_since
from lsp_server.generation import Generation
from tests.lsp_server.scripted import place


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


@pytest.mark.parametrize(
    ("origin", "now", "expected"),
    [
        (("x = ", "\n"), ("x = fo", "\n"), ("fo", 0)),
        (("x = ", "\n"), ("x = ", "\n"), ("", 0)),
        (("x = ", "\n"), ("x =", "\n"), None),
        (("x = ", "\n"), ("y = f", "\n"), None),
        (("x = ", "\n"), ("x = f", " + 1\n"), None),
        (("def f():", ""), ("def f():\n    a", ""), ("\n    a", 0)),
        (("def f():", ""), ("def f():\r\n    a", ""), ("\n    a", 0)),
        (("a\r\nx = ", ""), ("a\r\nx = f\r\n\r\ng", ""), ("f\n\ng", 0)),
        (("a\r\nx = ", "\r\n"), ("a\r\nx = f\r\ng", "\r\n"), ("f\ng", 0)),
        # the editor has closed what was typed
        (("x = f", "\n"), ("x = f(", ")\n"), ("(", 1)),
        (("x = ", ""), ('x = f("', '")'), ('f("', 2)),
        (("x = f", "\n"), ("x = f(", "]\n"), None),
        (("x = f", "\n"), ("x = f", ")\n"), None),
        # an edit elsewhere
        (("a = 1\nx = ", "\n"), ("a = 2\nx = f", "\n"), None),
    ],
)
def test_what_was_typed_since(origin: tuple[str, str], now: tuple[str, str], expected: tuple[str, int] | None) -> None:
    assert typed_since(place(*origin).trimmed(), place(*now)) == expected


TEXT = st.text(st.sampled_from("ab\n\r ("), max_size=12)


def unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(before=TEXT, typed=TEXT, after=TEXT)
def test_typing_is_always_recognised(before: str, typed: str, after: str) -> None:
    if "\r\n" in (before[-1:] + typed[:1], before[-1:] + after[:1], typed[-1:] + after[:1]):
        return  # two halves of one line break are no place
    found = typed_since(place(before, after).trimmed(), place(before + typed, after))
    assert found is not None
    assert found[0] == unix(typed)


@given(before=TEXT, typed=TEXT, other=TEXT)
def test_other_text_is_never_taken_for_it(before: str, typed: str, other: str) -> None:
    found = typed_since(place(before).trimmed(), place(other + typed))
    assert found is None or unix(other + typed) == unix(before) + found[0]


def finished(before: str, text: str, after: str = "", branches: list[Branch] | None = None) -> Generation:
    generation = Generation(place(before, after), text)
    generation.done = True
    generation.branches = branches or []
    return generation


def test_typing_along_and_back_is_answered() -> None:
    async def check() -> None:
        cache = SuggestionCache()
        cache.add(finished("x = ", "foo(bar)"))
        for typed in ("", "f", "foo(", "fo", "", "foo(ba"):
            hit = cache.find(place("x = " + typed))
            assert hit is not None
            assert (hit.typed, hit.text) == (typed, "foo(bar)")
        assert cache.find(place("x = g")) is None
        assert cache.find(place("x = foo(bar)")) is None, "nothing is left of it"
        assert cache.find(place("x = f", uri="file:///w/b.py")) is None

    run(check())


def test_a_divergence_that_was_verified_is_answered() -> None:
    async def check() -> None:
        cache = SuggestionCache()
        branches = [Branch(4, "baz)", -1.0), Branch(0, "list(", -2.0)]
        cache.add(finished("x = ", "foo(bar)", branches=branches))
        hit = cache.find(place("x = foo(baz"))
        assert hit is not None
        assert (hit.text, hit.branch) == ("foo(baz)", True)
        hit = cache.find(place("x = l"))
        assert hit is not None
        assert hit.text == "list("
        assert cache.find(place("x = foo(q")) is None
        own = cache.find(place("x = foo(ba"))
        assert own is not None
        assert not own.branch, "its own text comes first"

    run(check())


def test_what_broke_off_is_not_offered_and_what_is_old_goes() -> None:
    async def check() -> None:
        cache = SuggestionCache()
        broken = finished("x = ", "foo")
        broken.error = "the engine ended"
        cache.add(broken)
        assert cache.find(place("x = f")) is None
        assert cache.at(place("x = ")) is None
        for number in range(LARGEST + 1):
            cache.add(finished(f"a{number} = ", "foo"))
        assert cache.find(place("a0 = ")) is None or LARGEST > 200
        assert cache.find(place(f"a{LARGEST} = ")) is not None
        cache.forget("file:///w/a.py")
        assert cache.find(place(f"a{LARGEST} = ")) is None

    run(check())
