"""When to ask, where a suggestion stops, what of it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.request import StopRules
from lsp_server import suggestion
from lsp_server.documents import Edit
from lsp_server.suggestion import Shown, before_a_circle, partial, reason_not_to_ask, shape, stop_rules
from tests.lsp_server.scripted import place

DELETED = Edit(0, 4, "", 1)
TYPED = Edit(0, 4, "x", 0)


@pytest.mark.parametrize(
    ("before", "after", "edit", "reason"),
    [
        ("x = ", "", TYPED, ""),
        ("x = ", "", DELETED, "delete"),
        ("yy = 1", "", DELETED, ""),  # the cursor has gone elsewhere
        ("pri", "nt(x)", TYPED, "middle of a word"),
        ("f(", ")", TYPED, ""),
        ("f(g(", "))  ]}", TYPED, ""),
        ("f(", ") + other_thing", TYPED, "characters follow"),
        ("x" * 3000, "", TYPED, "longer than"),
        ("", "", None, "empty"),
        ("", "\nimport os\n", None, ""),
        ("", "import os\n", None, "word"),
    ],
)
def test_when_a_keystroke_asks(before: str, after: str, edit: Edit | None, reason: str) -> None:
    said = reason_not_to_ask(place(before, after), edit)
    assert reason in said
    assert bool(reason) == bool(said)


@pytest.mark.parametrize(
    ("before", "after", "rules"),
    [
        ("x = f(", ")", StopRules(end_of_line=True)),
        ("def f():\n    ", "", StopRules(min_indent=4)),
        ("def f():\n    return ", "", StopRules(min_indent=5)),
        ("def f():", "", StopRules(min_indent=1)),
        ("\t\t", "\n", StopRules(min_indent=16)),
    ],
)
def test_where_the_engine_stops(before: str, after: str, rules: StopRules) -> None:
    assert stop_rules(place(before, after)) == rules


def shown(before: str, text: str, after: str = "", done: bool = True) -> Shown:
    return shape(text, place(before, after), done)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (6 * "self._queue.remove, ", ""),
        (20 * "mpt", ""),
        ("x = 1\n    y = f(" + 12 * "None, ", "x = 1"),
        ("x = 1\n" + 5 * "    self.value = value\n", "x = 1\n    self.value = value"),
        (6 * "self.value = value\n    ", "self.value = value"),
        (
            "x = (\n" + 4 * "        first_argument,\n        second,\n",
            "x = (\n        first_argument,\n        second,",
        ),
    ],
)
def test_what_goes_in_circles_ends_there(text: str, expected: str) -> None:
    for done in (True, False):
        said = shown("def f(self):\n    ", text, done=done)
        assert (said.text, said.complete) == (expected, True)
        assert bool(expected) != ("repeats itself" in said.reason)


@pytest.mark.parametrize(
    "text",
    [
        "table = [" + 40 * "0, " + "]",
        "table = [" + 40 * "0x00, " + "]",
        "data = b'" + 40 * "\\x00" + "'",
        "# a title\n    # " + 70 * "=",
        "a, b, c = None, None, None",
        "a = 1\n    self.first = first\n    self.second = second\n    self.third = third\n    self.fourth = fourth",
        "return [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]",
    ],
)
def test_code_that_looks_alike_goes_in_no_circles(text: str) -> None:
    assert shown("def f(self):\n    ", text).text == text


_CODE = st.text("ab =\n", max_size=40)


@given(_CODE, st.integers(0, 60), st.text("ab0=\n ", min_size=1, max_size=40), st.integers(1, 8), _CODE)
def test_the_quick_look_misses_no_circle(before: str, blanks: int, unit: str, times: int, after: str) -> None:
    text = before + times * (unit + blanks * " ") + after
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suggestion, "_may_go_in_circles", lambda _: True)
        searched = before_a_circle(text)
    assert before_a_circle(text) == searched


@pytest.mark.parametrize(
    ("before", "text", "after", "expected"),
    [
        # one line where something follows
        ("x = (", "1 + 2\ny = 3", ") * 2", "1 + 2"),
        # a block ends at a smaller indentation, and takes its closing bracket along
        ("def f():\n    ", "a = 1\n    return a\n\nb = 2", "", "a = 1\n    return a"),
        ("def f():\n    x = g(", "\n        1,\n    )\n    return x", "", "\n        1,\n    )"),
        ("if a:", "\n    b()\nelse:\n    c()", "", "\n    b()"),
        # at top level, one thing at a time
        ("import os\n", "def f():\n    pass\n\n\ndef g():\n    pass", "", "def f():\n    pass"),
        ("import os\n", "x = f(\n    1,\n)\ny = 2", "", "x = f(\n    1,\n)"),
        ("import os\n", "if a:\n    b()\nelse:\n    c()\nd()", "", "if a:\n    b()\nelse:\n    c()"),
        ("import os\n", "import re\nimport sys\n\nx = 1", "", "import re\nimport sys"),
        # what stands below already is not said again
        ("    a = 1\n    ", "b = value\n    return a + b", "\n    return a + b\n", "b = value"),
        ("x = 1\n", "return total_value", "\nreturn total_value\n", ""),
        ("# say hello\n", "# say hello\nprint()", "", ""),
        # a lone bracket below is a coincidence
        ("f(", "\n    a,\n)", "\n)\n", "\n    a,\n)"),
        ("x = 1", "   \n  ", "", ""),
    ],
)
def test_what_is_shown(before: str, text: str, after: str, expected: str) -> None:
    result = shown(before, text, after)
    assert result.text == expected
    assert result.complete
    assert bool(result.reason) == (not expected)


@pytest.mark.parametrize(
    ("before", "text", "after", "expected", "covers"),
    [
        ("print(", '"x")', ")", '"x")', 1),
        ("print(", '"x"', ")", '"x"', 0),
        ("f(g(", "x))", "))", "x))", 2),
        ("f(g(", "x))", ")", "x))", 1),
        ("f(g(", "x)", ")", "x)", 0),
        ("f(", "x))", ")", "x)", 1),
        ("f(", "[a], {b})", ")", "[a], {b})", 1),
        ('d["', 'key"]', '"]', 'key"]', 2),
        ('d["', "key", '"]', "key", 0),
        ('f("', 'a(b")', '")', 'a(b")', 2),
        ("f('", "it\\'s')", "')", "it\\'s')", 2),
        ("x = [", "1, 2]", "]", "1, 2]", 1),
        # more than brackets comes again as a whole
        ("def f(", "a, b):", "):", "a, b):", 2),
        ("def f(", "a, b):  # both", "):", "a, b):  # both", 2),
        ("def f(", "a, b)", "):", "a, b)", 1),
        ("f(", "x)):", "):", "x)", 1),
        ("if x", " == 1:", ":", " == 1:", 1),
        ("max(", "1, 2)", ", 2)", "1, 2)", 4),
        ("max(", "g(1, 2)", ", 2)", "g(1, 2)", 0),  # it closes its own bracket
        ('"a": ', "1,", ",", "1,", 1),
        ("if (", "a == b) {", ") {", "a == b) {", 3),
        ("    a, ", "b);", ");", "b);", 2),
        ('"""', 'Return it."""', '"""', 'Return it."""', 3),
        # in a string, a bracket closes what stands for a value
        ('print(f"Hello {', 'name}")', '}")', 'name}")', 3),
        ('print(f"Hello {', 'name}!")', '}")', 'name}!")', 3),
        ('print(f"Hello {', "name", '}")', "name", 0),
        ('print(f"Hello {', "name} and", '}")', "name} and", 1),
        ("`${", "name}`;", "}`;", "name}`;", 3),
        # an apostrophe is no quote
        ("# don't call foo(", "x)", ")", "x)", 1),
        ("f(f'a', ", "b)", ")", "b)", 1),
    ],
)
def test_brackets_and_quotes_are_closed_once(before: str, text: str, after: str, expected: str, covers: int) -> None:
    assert shown(before, text, after) == Shown(expected, complete=True, covers=covers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("return valu", "return"),
        ("return value.", "return value."),
        ("a = 1\n    b = 2\n    retu", "a = 1\n    b = 2"),
        ("valu", ""),
        ("", ""),
    ],
)
def test_in_time_only_whole_words_and_lines_are_shown(text: str, expected: str) -> None:
    assert partial(shown("def f():\n    ", text, done=False)).text == expected


LINES = st.lists(
    st.sampled_from(["", "  ", "a = 1", "    b = 2", "        c(", "    )", "def f():", "else:", "el", "# say", "x)"]),
    min_size=1,
    max_size=7,
)
PLACES = st.sampled_from(
    [
        ("", "\n"),
        ("x = 1\n", "\na = 1\n    b = 2\n"),
        ("def f():\n    ", "\n    b = 2\n"),
        ("def f():\n    y = ", ""),
        ("f(", ")"),
        ("# say\n", "\ndef f():\n"),
    ]
)


@given(lines=LINES, where=PLACES)
def test_what_is_shown_only_grows(lines: list[str], where: tuple[str, str]) -> None:
    """Whatever the pieces, no text that was worth showing early is taken back later."""
    text = "\n".join(lines)
    final = shape(text, place(*where), done=True)
    for end in range(len(text)):
        early = shape(text[:end], place(*where), done=False)
        assert final.text.startswith(partial(early).text), (text[:end], early, final)
        if early.complete:
            assert early.text == final.text
