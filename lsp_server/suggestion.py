"""Rules of a good suggestion: when to ask for one, where it stops, what of it is shown. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.request import StopRules
from lsp_server.documents import Edit
from lsp_server.view import WINDOW_BEFORE, View

TAB = 8
LONGEST_REST = 8  # characters that may follow the cursor on its line, closing brackets not counted
LONGEST_LINE = 2000
_CLOSERS = ")]}>\"'`;,: \t"
_GOING_ON = ("else", "elif", "except", "finally", "catch", "while")
_PAIRS = {")": "(", "]": "[", "}": "{"}
_LONGEST_ROUND = 100  # characters
_CIRCLE = re.compile(rf"(?s)(\S.{{0,{_LONGEST_ROUND - 1}}}?)\1{{2,}}")
_CIRCLES = (4, 48), (3, 96)  # so many times the same, in so many characters
_SHORTEST_CIRCLE = min(characters for _, characters in _CIRCLES)
_STRETCH = 16  # characters
_LETTER = re.compile(r"(?<![0\\])[^\W\d_]")  # but of 0x00 and \x00
_WORD = re.compile(r"\w+\Z")
_PREFIXES = {"b", "br", "f", "fr", "r", "rb", "rf", "u", "l", "u8"}  # of a string or character
_REMARK = r"\s*(?:(?:#|//).*)?\Z"  # at most a comment, to the end
_COMMENT = re.compile(r"\s*(?:#|//|--|/\*|\*|<!--|;|%)")


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a completion is shown.

    `complete`: more of it would not change that. `covers`: how many characters behind the cursor it takes the place of.
    `reason`: why nothing is shown, where `text` is empty.
    """

    text: str
    complete: bool
    covers: int = 0
    reason: str = ""


# --- when ------------------------------------------------------------------------------------------------------------


def reason_not_to_ask(view: View, edit: Edit | None) -> str:
    """Say why a keystroke here should not wake the model, or nothing. Explicit requests are not asked about."""
    after = view.line_after
    if edit and edit.removed > len(edit.text) and (edit.line, edit.column) == (view.line, view.end):
        return "right after a delete"
    if after[:1].isalnum() or after[:1] == "_":
        return "in the middle of a word"
    if len(after.strip().strip(_CLOSERS)) > LONGEST_REST:
        return f"more than {LONGEST_REST} characters follow on the line"
    if len(view.line_before) + len(after) > LONGEST_LINE:
        return f"the line is longer than {LONGEST_LINE} characters"
    if not view.before.strip() and not view.after.strip():
        return "the document is empty"
    return ""


# --- where it stops --------------------------------------------------------------------------------------------------


def columns(line: str) -> int:
    """Return the width of a line's indentation; a tab goes to the next multiple of 8."""
    return len(line[: len(line) - len(line.lstrip(" \t"))].expandtabs(TAB))


def stop_rules(view: View) -> StopRules:
    """Return where the engine stops.

    At the line's end where something follows the cursor; on an empty line at a smaller indentation; elsewhere behind
    the block that the line opens, if it opens one.
    """
    if view.line_after.strip():
        return StopRules(end_of_line=True)
    if not view.line_before.strip():
        return StopRules(min_indent=columns(view.line_before))
    return StopRules(min_indent=columns(view.line_before) + 1)


def shape(text: str, view: View, done: bool) -> Shown:
    """Return what is shown of the completion `text` at `view`; `done`: it will not become longer.

    As it grows, what is shown grows with it or stays as it is, unless it turns out to go in circles.
    """
    kept, stopped = _within(text, stop_rules(view))
    kept, ended = _first_construct(kept, view)
    ended = ended or stopped
    kept, circles = before_a_circle(kept)
    ended = ended or circles
    kept, repeats = _without_what_follows(kept, view, done or ended)
    complete = ended or repeats or done
    if complete and not view.line_after.strip():
        kept = kept.rstrip()
    kept, covers = against_closers(kept, view)
    if kept.strip():
        return Shown(kept, complete, covers)
    reason = "it would repeat what stands there" if repeats else "the model says nothing but blanks"
    reason = "the model repeats itself" if circles else reason
    return Shown("", complete, 0, reason if text else "the model says nothing")


def partial(shown: Shown) -> Shown:
    """Return what of an unfinished suggestion is worth showing: whole lines, or whole words of its first line."""
    if shown.complete:
        return shown
    text = shown.text
    at = text.rfind("\n")
    if at > 0 and text[:at].strip():
        return Shown(text[:at].rstrip(), False, shown.covers)
    word = _WORD.search(text)
    cut = text[: word.start()] if word else text
    return Shown(cut.rstrip(), False, shown.covers, "" if cut.strip() else "nothing was verified in time")


def _within(text: str, rules: StopRules) -> tuple[str, bool]:
    """Apply the rules that the engine follows: a branch was cut by nobody yet."""
    lines = text.split("\n")
    begun = bool(lines[0].strip())
    for number, line in enumerate(lines[1:], start=1):
        if rules.end_of_line and begun:
            return "\n".join(lines[:number]), True
        if not line.strip():
            continue
        begun = True
        if columns(line) + (line.lstrip(" \t")[0] in ")]}") < (rules.min_indent or 0):
            return "\n".join(lines[:number]), True
    return text, False


def _first_construct(text: str, view: View) -> tuple[str, bool]:
    """Cut where a second thing begins: at top level, a function does not bring the next one along."""
    if view.line_before.strip() or columns(view.line_before) > 0:
        return text, False
    lines = text.split("\n")
    started = indented = blank = False
    for number, line in enumerate(lines):
        if not line.strip():
            blank = blank or started
            continue
        if columns(line) > 0 or not started:
            started, indented, blank = True, indented or columns(line) > 0, False
            continue
        if blank or (indented and not _goes_on(line)):
            undecided = not blank and number == len(lines) - 1 and any(word.startswith(line) for word in _GOING_ON)
            return "\n".join(lines[:number]).rstrip("\n"), not undecided
    return text, False


def _goes_on(line: str) -> bool:
    """Whether a line at the margin belongs to the block above it."""
    return line[0] in ")]}" or line.startswith(_GOING_ON)


def before_a_circle(text: str) -> tuple[str, bool]:
    """Cut before the line in which the model begins to say the same over and over: it would not stop by itself.

    What is repeated holds a letter: rulers and rows of numbers are no circles. A line that is repeated stays once.
    """
    if not _may_go_in_circles(text):
        return text, False
    for found in _CIRCLE.finditer(text):
        length = len(found[0])
        long = any(length >= times * len(found[1]) and length >= characters for times, characters in _CIRCLES)
        if long and _LETTER.search(found[1]):
            return text[: text.rfind("\n", 0, found.end(1) + 1) + 1].rstrip("\n"), True
    return text, False


def _may_go_in_circles(text: str) -> bool:
    """Whether one of the stretches that `text` is cut into comes again as in a circle, with what is around it.

    Looking for circles tries every length at every place; this takes a hundredth of the time. No circle is missed: less
    its last round it holds, wherever it begins, whole stretches, and in these all that goes round.
    """
    for at in range(0, len(text) - _STRETCH, _STRETCH):
        stretch = text[at : at + _STRETCH]
        end = at + _STRETCH + _LONGEST_ROUND
        again = -1 if stretch.isspace() else text.find(stretch, at + 1, end)
        while again >= 0:
            least = max(_SHORTEST_CIRCLE * 3 // 4, 2 * (again - at))
            if _alike(text, at, again) >= least:
                return True
            again = text.find(stretch, again + 1, end)
    return False


def _alike(text: str, first: int, second: int) -> int:
    """Return how many characters around `first` are those around `second`, one by one."""
    begin, end = first, second
    while begin > 0 and text[begin - 1] == text[begin - 1 + second - first]:
        begin -= 1
    while end < len(text) and text[end] == text[end - (second - first)]:
        end += 1
    return end - (second - first) - begin


def _without_what_follows(text: str, view: View, final: bool) -> tuple[str, bool]:
    """Cut where it begins to repeat the lines behind the cursor or, as a comment, the line before it.

    Two lines must agree, or the last one that is known. While the second is still to come, the first one is held.
    """
    following = [line.strip() for line in view.after.split("\n")[1:40] if line.strip()][:2]
    lines = text.split("\n")
    whole = [(view.line_before + lines[0]).strip(), *(line.strip() for line in lines[1:])]
    known = whole if final else whole[:-1]
    unwanted = [*following[:1], *([_line_above(view)] if _COMMENT.match(whole[0]) else [])]
    if not known and any(line.startswith(whole[0]) for line in unwanted):
        return "", False  # it may become what stands there
    if known and _COMMENT.match(known[0]) and known[0] == _line_above(view):
        return "", True
    for number, line in enumerate(known):
        if not following or line != following[0] or not _telling(line):
            continue
        rest = [each for each in known[number + 1 :] if each]
        if len(following) < 2 or (rest and rest[0] == following[1]) or (final and not rest):
            return "\n".join(lines[:number]), True
        if not rest:
            return "\n".join(lines[:number]), False
    return text, False


def _line_above(view: View) -> str:
    """Return the last line above the cursor's that is not blank, without its indentation."""
    lines = view.before[-WINDOW_BEFORE:].split("\n")[:-1]
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _telling(line: str) -> bool:
    """Whether two equal lines are more than a coincidence: `)` and `else:` stand everywhere."""
    return len(re.findall(r"\w", line)) > 4


def against_closers(text: str, view: View) -> tuple[str, int]:
    """Return the text less what closes a bracket twice, and how many closers behind the cursor it takes the place of.

    Editors put the closing bracket or quote behind the cursor when the opening one is typed. A suggestion that closes
    them itself replaces them; one that does not stands before them.
    """
    after = view.line_after
    if not after.strip():
        return text, 0
    opened = _scan(view.line_before, "")
    said = _scan(text, opened.quote)
    again = _said_again(after.rstrip(), text, opened, said)
    if again is not None:
        return text, again
    quoted = 1 if opened.quote and after[:1] == opened.quote else 0
    if quoted and said.quote == opened.quote and not said.left:
        return text, 0  # it stays within the string
    closers = len(after[quoted:]) - len(after[quoted:].lstrip(")]}"))
    closing, needed = said.closing, len(opened.open)
    if needed and len(closing) > needed:
        text, closing = text[: closing[needed]], closing[:needed]
    covered = max(0, min(len(closing) + closers - needed, len(closing), closers))
    said_closers = "".join(text[at] for at in closing)
    while not _in_order(after[quoted : quoted + covered], said_closers):
        covered -= 1  # an editor shows nothing that would take away what does not come again
    return text, covered + quoted


def _said_again(rest: str, text: str, opened: _Scanned, said: _Scanned) -> int | None:
    """Return how much of the rest of the line, if it is more than closing brackets, the text takes the place of.

    None leaves it to the brackets. A rest like `):` or `, 2)` comes again as a whole or not at all. In a string, where
    brackets may be placeholders', they count up to the quote that ends it.
    """
    if rest.strip(")]}") and re.search(re.escape(rest) + _REMARK, text):
        least, most = len(_scan(rest, opened.quote).closing), len(opened.open)
        if least <= len(said.closing) <= (most or len(said.closing)):
            return len(rest)
    inner = len(rest) - len(rest.lstrip(")]}"))
    if not inner or not opened.quote or rest[inner : inner + 1] != opened.quote:
        return None
    if said.left and _in_order(rest[: inner + 1], text):
        behind = rest[inner + 1 :]
        return inner + 1 + min(len(behind) - len(behind.lstrip(")]}")), len(said.closing))
    covered = min(len(_scan(text, "").closing), inner)
    while not _in_order(rest[:covered], text):
        covered -= 1
    return covered


def _in_order(chars: str, text: str) -> bool:
    """Whether all of `chars` occur in `text`, one behind the other."""
    left = iter(text)
    return all(char in left for char in chars)


@dataclass(slots=True)
class _Scanned:
    """Brackets of a text: those left `open`, the places of `closing` ones that it has not opened, the open `quote`.

    `left`: whether the quote that was open at its beginning was closed.
    """

    open: list[str]
    closing: list[int]
    quote: str
    left: bool = False


def _scan(text: str, quote: str) -> _Scanned:
    found = _Scanned([], [], quote)
    escaped = False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = bool(found.quote)
        elif found.quote:
            if char == found.quote:
                found.quote, found.left = "", True
        elif char in "\"'`" and not _apostrophe(text, at):
            found.quote = char
        elif char in _PAIRS.values():
            found.open.append(char)
        elif char in _PAIRS:
            if found.open and found.open[-1] == _PAIRS[char]:
                found.open.pop()
            else:
                found.closing.append(at)
    return found


def _apostrophe(text: str, at: int) -> bool:
    """Whether a quote stands within a word or number, as in `don't`, and opens nothing. `f'...'` is a string."""
    word = _WORD.search(text, max(at - 4, 0), at)
    return bool(word and text[at + 1 : at + 2].isalnum() and word[0].lower() not in _PREFIXES)
