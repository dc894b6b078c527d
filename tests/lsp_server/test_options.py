"""Settings as editors send them."""

from __future__ import annotations

import pytest

from lsp_server.options import NAMES, Options, read_options


def test_names_are_camel_case() -> None:
    assert set(NAMES) == {
        "enabled",
        "disabledLanguages",
        "debounceMs",
        "maxTokens",
        "deadlineMs",
        "maxCandidates",
        "minConfidence",
        "prefetch",
        "workspaceContext",
        "completionFallback",
    }


@pytest.mark.parametrize("wrap", [lambda inner: inner, lambda inner: {"treeline": inner}])
def test_what_is_given_is_taken_and_the_rest_stays(wrap: object) -> None:
    assert callable(wrap)
    given = {"maxTokens": 32, "disabledLanguages": ["markdown"], "debounceMs": 80, "enabled": None}
    options, wrong = read_options(Options(prefetch=False), wrap(given))
    assert wrong == []
    assert options == Options(prefetch=False, max_tokens=32, disabled_languages=("markdown",), debounce_ms=80)
    again, _ = read_options(options, wrap({"debounceMs": None}))
    assert again.debounce_ms is None


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"maxTokens": "many"}, "treeline.maxTokens is 'many': expected a whole number from 1 to 4096"),
        ({"maxTokens": 0}, "from 1 to 4096"),
        ({"maxTokens": 1.5}, "a whole number"),
        ({"maxTokens": True}, "a whole number"),
        ({"minConfidence": 2}, "a number from 0 to 1"),
        ({"enabled": "yes"}, "expected true or false"),
        ({"disabledLanguages": "python"}, "a list of language ids"),
        ({"disabledLanguages": [1]}, "a list of language ids"),
        ({"maxtokens": 3}, "treeline.maxtokens is no setting: known are"),
        ([1], "expected an object"),
        ({"treeline": 3}, "expected an object"),
    ],
)
def test_what_is_wrong_is_named_and_ignored(settings: object, complaint: str) -> None:
    options, wrong = read_options(Options(), settings)
    assert options == Options()
    assert len(wrong) == 1
    assert complaint in wrong[0]


@pytest.mark.parametrize(
    "settings", [None, {}, {"treeline": None}, {"enabled": None}, {"pylsp": {"a": 1}, "gopls": {}}]
)
def test_nothing_changes_nothing(settings: object) -> None:
    assert read_options(Options(max_tokens=5), settings) == (Options(max_tokens=5), [])
