"""The replay benchmark can fail: planted violations are found, by the judges alone and through a server that lies."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

from engine.bench import Case
from engine.bench_replay import Load, Replay, ReplaySettings, Typed, parse_counters, private_runtime
from engine.bench_replay_client import LanguageClient
from engine.bench_replay_editor import Asked, Editor, Style
from engine.bench_replay_judges import Offered, Place, Screen, fault
from engine.bench_replay_report import failures, faults, report, rows, share, times, tokens
from engine.bench_replay_typist import FASTEST, SLOWEST, Habits, Page, Stroke, make_typist
from engine.config import EngineConfig
from engine.errors import TreelineError

ENGINE = Path(__file__).parents[2] / "engine"
CASE = Case("a.py:1:1", "python", "a.py", "x = ", "\n", "call(1)")
FITTING = Offered("x = call(1)", 3, 0, 3, 4)
PLACE = Place(3, 4, "x = ")


def key(text: str) -> Stroke:
    return Stroke("type", text, cursor=len(text))


# --- stale -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "place"),
    [
        (FITTING, PLACE),
        (Offered("call(1)", 3, 4, 3, 4), PLACE),
        (Offered("call(1)", 3, 4, 3, 5), Place(3, 4, "x = )")),
        (Offered('call("a"])', 3, 4, 3, 6), Place(3, 4, 'x = ")')),
    ],
)
def test_what_fits_its_text_is_not_stale(offered: Offered, place: Place) -> None:
    assert fault(offered, place) == ""


@pytest.mark.parametrize(
    ("offered", "place", "words"),
    [
        (FITTING, Place(3, 4, "y = "), "begins with 'x = '"),
        (Offered("x = call", 3, 0, 3, 5), Place(3, 5, "x = d"), "begins with 'x = c'"),  # made before a key
        (Offered("x = call", 3, 0, 3, 6), Place(3, 5, "x = c"), "do not hold"),  # made after one that came later
        (Offered("call", 3, 5, 3, 5), PLACE, "do not hold"),
        (FITTING, Place(2, 4, "x = "), "row 3"),
        (Offered("x = call", 3, 0, 4, 0), PLACE, "row 3"),
        (Offered("]]", 3, 4, 3, 6), Place(3, 4, "x = ])"), "away"),
    ],
)
def test_what_was_made_for_another_text_is_stale(offered: Offered, place: Place, words: str) -> None:
    assert words in fault(offered, place)


# --- jumping, typing along -------------------------------------------------------------------------------------------


def test_a_key_agrees_if_it_is_the_next_character_shown() -> None:
    screen = Screen()
    assert not screen.typed("c")
    screen.show("call(1)", "\n")
    assert screen.typed("c")
    assert screen.typed("all")
    assert screen.rest == "(1)"
    assert not screen.typed("[")
    assert not screen.typed("1"), "what was shown is gone after a key that did not agree"
    screen.show("x", "\n")
    assert not screen.typed("")


@pytest.mark.parametrize(
    ("rest", "tail", "seen"),
    [
        ("all(1)", "\n", "same"),
        ("all(1) + 2", "\n", "longer"),
        ("all(1)\n    y = 2", "\n", "longer"),
        ("all(1", ")\n", "same"),  # the bracket stands there by now: no difference to see
        ("all(2)", "\n", "jumped"),
        ("all(", "\n", "jumped"),
        ("", "all(1)", "vanished"),
    ],
)
def test_what_happens_to_the_text_ahead_while_keys_agree(rest: str, tail: str, seen: str) -> None:
    screen = Screen()
    assert screen.show("call(1)", "\n") == "new"
    assert screen.typed("c")
    assert screen.show(rest, tail) == seen


def test_nothing_jumps_where_nothing_was_shown() -> None:
    screen = Screen()
    assert screen.show("", "\n") == "nothing"
    screen.show("call(1)", "\n")
    screen.typed("d")
    assert screen.show("ef f():", "\n") == "new"
    screen.clear()
    assert screen.show("x", "\n") == "new"


# --- the typist ------------------------------------------------------------------------------------------------------


def type_all(seed: int, text: str, habits: Habits, helpful: bool) -> tuple[str, list[Stroke]]:
    """Type a file from somewhere on; with `helpful`, right suggestions of one or two lines are always shown."""
    chance = random.Random(seed)
    at = chance.randrange(len(text) // 2)
    end = text.find("\n", at + 200)
    first, typist = make_typist(text[:at], text[end:], text[at:end], 400, chance, habits)
    assert first != text
    strokes: list[Stroke] = []
    while True:
        behind = "\n".join(text[len(typist.page.before) :].split("\n")[:2])
        stroke = typist.accept(behind, 0) if helpful and text.startswith(typist.page.before) else None
        stroke = stroke or typist.next()
        if stroke is None:
            return typist.page.text, strokes
        assert FASTEST <= typist.gap() <= SLOWEST
        typist.page.apply(stroke)
        strokes.append(stroke)


@pytest.mark.parametrize("helpful", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_the_typist_arrives_at_the_file_whatever_happens_on_the_way(seed: int, helpful: bool) -> None:
    text = (ENGINE / "engine.py").read_text(encoding="utf-8")
    typed, _ = type_all(seed, text, Habits(slips=0.1, detours=0.5), helpful)
    assert typed == text


def test_the_habits_occur() -> None:
    text = (ENGINE / "engine.py").read_text(encoding="utf-8")
    strokes = [s for seed in range(10) for s in type_all(seed, text, Habits(detours=1, accepts=1), helpful=True)[1]]
    kinds = {stroke.kind for stroke in strokes}
    assert kinds == {"type", "delete", "move", "accept"}
    strokes = [s for seed in range(10) for s in type_all(seed, text, Habits(), helpful=False)[1]]
    assert any(stroke.text == "()" and stroke.cursor == 1 for stroke in strokes), "the editor closes brackets"
    assert any(stroke.text == ")" and stroke.ahead == 1 for stroke in strokes), "and they are typed over"


def test_only_right_lines_are_accepted() -> None:
    _, typist = make_typist("x = ", "\n", "call(1)\ny = 2\n", 1, random.Random(0), Habits(accepts=1.0))
    for wrong in ("call(2)", "call(1", "call(1) + 2", "", "\n"):
        assert typist.accept(wrong, 0) is None
    assert typist.accept("call(1)", 1) is None, "nothing stands behind the cursor that it could replace"
    taken = typist.accept("call(1)\ny = 3", 0)
    assert taken is not None
    assert taken.text == "call(1)", "the first line is right, the second is not"


# --- through a server ------------------------------------------------------------------------------------------------

LIAR = """
import json, sys
inp, out = sys.stdin.buffer, sys.stdout.buffer
asked = 0
def send(message):
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    out.write(b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    out.flush()
while True:
    size = 0
    while (line := inp.readline()).strip():
        size = int(line.split(b":")[1])
    if not line:
        break
    message = json.loads(inp.read(size))
    method, number = message.get("method"), message.get("id")
    if method == "exit" or (method == "shutdown" and SCRIPT == "dies"):
        break
    if method == "textDocument/inlineCompletion":
        place = message["params"]["position"]
        asked += 1
        column = place["character"] - (0 if SCRIPT != "stale" else 1)
        text = f"call({asked if SCRIPT == 'jumps' else 1})"[place["character"] - 4:]
        at = {"line": place["line"], "character": column}
        if SCRIPT == "dies" and asked == 2:
            break
        if SCRIPT == "errs":
            send({"id": number, "error": {"code": -32603, "message": "no"}})
            continue
        send({"id": number, "result": {"items": [{"insertText": text, "range": {"start": at, "end": place}}]}})
        if SCRIPT == "twice":
            send({"id": number, "result": None})
    elif number is not None:
        send({"id": number, "result": None})
"""


async def typed_with(script: str, style: Style) -> tuple[Typed, int]:
    """Type three agreeing keys with a server that plants one kind of violation."""
    client = await LanguageClient.start([sys.executable, "-c", f"SCRIPT = {script!r}\n{LIAR}"], {})
    editor, page = Editor(client, style, "file:///a.py"), Page("é = ", "\n")
    editor.open(page, "python")
    try:
        for char in ("c", "a", "l"):
            editor.press(key(char))
            await editor.settle()
    finally:
        await client.stop()
    for asked in editor.asked:
        asked.reason = "typed through"
    return Typed(CASE, asked=editor.asked), client.strays


@pytest.mark.parametrize("script", ["honest", "stale", "jumps", "errs"])
def test_a_lying_server_is_found_out(script: str) -> None:
    typed, strays = asyncio.run(typed_with(script, "vscode"))
    found = {each.kind for each in faults(typed)}
    assert found == {"honest": set(), "stale": {"stale"}, "jumps": {"jumped"}, "errs": {"error"}}[script]
    assert strays == 0
    assert [asked.along for asked in typed.asked] == [False] + 2 * [script in ("honest", "jumps")]


def test_positions_are_counted_as_the_editor_counts_them() -> None:
    """The liar's texts fit columns in UTF-16 alone: in UTF-8 the é counts twice."""
    typed, _ = asyncio.run(typed_with("honest", "neovim"))
    assert [asked.offered and asked.offered.text for asked in typed.asked] == ["ll(1)", "l(1)", "(1)"]


def test_answers_that_nobody_waits_for_are_counted() -> None:
    assert asyncio.run(typed_with("twice", "neovim"))[1] == 3


def test_a_server_that_ends_is_one_clear_line() -> None:
    with pytest.raises(TreelineError, match="the language server has ended"):
        asyncio.run(typed_with("dies", "vscode"))


# --- the report ------------------------------------------------------------------------------------------------------


def asked(ms: float, reason: str, *, along: bool = True, text: str = "x") -> Asked:
    offered = Offered(text, 0, 0, 0, 0) if text else None
    return Asked(2, Place(0, 0, ""), along, 0.0, ms, "shown" if text else "nothing", offered, "new", "", reason)


def test_only_text_without_a_pass_counts_as_answered_without_one() -> None:
    listed = [asked(1, "typed through"), asked(2, "answered"), asked(3, "branch"), asked(4, "typed through", text="")]
    assert share(listed).answered == 2
    assert share(listed).share == 0.5
    assert share([]).share is None
    assert times(listed).p50 == 2.5
    assert times([]).p95 is None


def test_tokens_are_held_against_an_engine_that_reads_every_prompt() -> None:
    before = Load(None, None, {"prompt_tokens": 100, "requests": 1})
    after = Load(None, None, {"prompt_tokens": 1100, "cached_tokens": 900, "new_tokens": 30, "requests": 11})
    found = tokens(before, after, 50)
    assert (found.computed, found.without_reuse) == (130, 5000)


def test_the_daemons_counters_are_read() -> None:
    text = (
        "# HELP treeline_requests_total Requests.\n"
        'treeline_requests_total{kind="completion",end="cancelled"} 2\n'
        'treeline_requests_total{kind="completion",end="stop"} 3\n'
        "treeline_prompt_tokens_total 70\ntreeline_queue_depth 9\n"
    )
    assert parse_counters(text) == {"requests": 5, "cancelled": 2, "stop": 3, "prompt_tokens": 70}


def test_the_report_says_what_must_not_be() -> None:
    load = Load(1 << 20, None, {})
    typed = Typed(CASE, 2, 0, 2, 0, False, [asked(1, "typed through"), asked(1, "")])
    answer = report(Replay([typed], [200.0], load, load, {}, 1, []), ReplaySettings(), {}, "0")
    wrong = failures(answer)
    assert "1 stale suggestions" in wrong, "text that the server does not know of"
    assert "1 requests without a proper answer" in wrong
    assert "1 documents that differ" in wrong
    assert "jumping" not in wrong
    assert ("stale", "1") in rows(answer)


def test_the_replay_uses_nothing_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREELINE_MODEL", "another")
    monkeypatch.setenv("TREELINE_URL", "http://example.invalid")
    with private_runtime(EngineConfig(memory=1 << 30)) as (variables, folder):
        assert variables["TREELINE_MODEL"] == "bundled"
        assert variables["TREELINE_MEMORY"] == str(1 << 30)
        assert "TREELINE_URL" not in variables
        assert not list(folder.iterdir())
    assert not folder.exists()
