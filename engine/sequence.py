"""One completion in progress: its tokens, the text that may be shown, and where it ends.

Text that was shown is never taken back. So whatever could still turn out to lie behind the end is held: the beginning
of a stop string, a character whose last bytes are to come, line breaks before a line of yet unknown indentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from collections.abc import Sequence as Items

from engine.request import FinishReason, StopRules
from engine.token_table import IncrementalDecoder

TAB = 8  # columns from one tab stop to the next, as Python's own tokenizer counts them

# a line break, the blank lines that follow it, and the indentation of the line after them
_BREAK = re.compile(r"\r?\n(?:[ \t]*\r?\n)*([ \t]*)")
_BLANK = " \t\r\n"
_CLOSING = ")]}"  # a line that begins so belongs to the one that it closes


class Sequence:
    """The token ids of one completion and the text they make, token by token.

    `generated` holds every pushed token but the one that ended the text (an id of `stop_ids`). `finish_reason` is None
    while tokens may be pushed. `required` are the bytes still owed by token healing: they repeat what the user has
    typed, so they are not part of the text.
    """

    __slots__ = ("_bytes_of", "_decoder", "_lines", "_stop_ids", "_strings", "finish_reason", "generated", "max_tokens",
                 "prompt", "required")  # fmt: skip

    def __init__(
        self,
        prompt: Items[int],
        token_bytes: Callable[[int], bytes],
        *,
        stop: StopRules,
        stop_ids: Collection[int],
        max_tokens: int,
        required: bytes = b"",
    ) -> None:
        """Start an empty completion after `prompt`; `token_bytes` tells what a token stands for."""
        self.prompt = tuple(prompt)
        self.generated: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.max_tokens = max_tokens
        self.required = required
        self._bytes_of = token_bytes
        self._stop_ids = frozenset(stop_ids)
        self._decoder = IncrementalDecoder()
        self._strings = _StopStrings(stop.strings)
        self._lines = _LineRules(stop) if stop.end_of_line or stop.min_indent is not None else None

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and completion."""
        return (*self.prompt, *self.generated)

    def push(self, token: int) -> str:
        """Append a token; return the text that may be shown now, and set `finish_reason` if this was the end.

        Raises ValueError after the end, and for a token that contradicts the `required` bytes.
        """
        if self.finish_reason is not None:
            raise ValueError(f"the completion has ended ({self.finish_reason}): no token may follow")
        if token in self._stop_ids:
            return self.finish("stop")
        self.generated.append(token)
        text = self._show(self._decoder.push(self._pay(self._bytes_of(token))))
        if self.finish_reason is None and len(self.generated) >= self.max_tokens:
            return text + self.finish("length")
        return text

    def finish(self, reason: FinishReason) -> str:
        """End the completion from outside (deadline, cancelled); return what was held and is text after all.

        Not shown: blank lines at the end where the indentation decides, and a character that lacks its last bytes.
        """
        held = self._strings.flush()
        text, _ = self._lines.feed(held) if self._lines else (held, False)
        self.finish_reason = reason
        return text

    def _pay(self, data: bytes) -> bytes:
        """Return what of a token's bytes goes beyond the bytes owed."""
        if not self.required:
            return data
        count = min(len(data), len(self.required))
        if data[:count] != self.required[:count]:
            raise ValueError(f"token spells {data!r} where {self.required!r} is owed")
        self.required = self.required[count:]
        return data[count:]

    def _show(self, text: str) -> str:
        text, ended = self._strings.feed(text)
        if self._lines:
            text, broken = self._lines.feed(text)
            ended = ended or broken
        if ended:
            self.finish_reason = "stop"
        return text


class _StopStrings:
    """Ends the text before the stop string whose last character comes first (of several: the longest)."""

    __slots__ = ("_held", "_longest", "_strings")

    def __init__(self, strings: Items[str]) -> None:
        self._strings = tuple(string for string in strings if string)
        self._longest = max(map(len, self._strings), default=0)
        self._held: str = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that is certain, and whether a stop string ended it."""
        if not self._strings:
            return text, False
        text = self._held + text
        found = [(text.find(string), string) for string in self._strings]
        ends = [(at + len(string), at) for at, string in found if at >= 0]
        if ends:
            self._held = ""
            return text[: min(ends)[1]], True
        keep = next((n for n in range(min(self._longest - 1, len(text)), 0, -1) if self._begins(text[-n:])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """Return the held text: no stop string came of it."""
        held, self._held = self._held, ""
        return held

    def _begins(self, tail: str) -> bool:
        return any(string.startswith(tail) for string in self._strings)


class _LineRules:
    """Ends the text at the first line break (`end_of_line`), or at one before a line of less than `min_indent` columns.

    A completion that begins with a line break comes where the line is complete; ending it there would leave nothing.
    So with `end_of_line` one line break counts for nothing as long as only blanks came before it: the completion is
    then the next line. If nothing but blanks follows that, nothing is shown.
    """

    __slots__ = ("_end_of_line", "_held", "_min_indent", "_started")

    def __init__(self, stop: StopRules) -> None:
        self._end_of_line = stop.end_of_line
        self._min_indent = stop.min_indent or 0
        self._held: str = ""
        self._started = False  # something other than blanks was seen

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that is certain, and whether it ends there."""
        text = self._held + text
        self._held = ""
        at = 0
        if self._end_of_line and not self._started:
            at = len(text) - len(text.lstrip(_BLANK))
            blanks = text[:at]
            if blanks.count("\n") > 1:
                return "", True
            if at == len(text):
                self._held = text
                return "", False
            if "\n" in blanks and columns(blanks[blanks.rindex("\n") + 1 :]) < self._min_indent:
                return "", True
        self._started = self._started or bool(text.strip(_BLANK))
        while found := _BREAK.search(text, at):
            if self._end_of_line:
                return text[: found.start()], True
            at = found.end()
            if text[at:] in ("", "\r"):  # more blanks may come, or the other half of a line break
                self._held = text[found.start() :]
                return text[: found.start()], False
            if columns(found[1]) + (text[at] in _CLOSING) < self._min_indent:
                return text[: found.start()], True
        if text.endswith("\r"):
            self._held = "\r"
            return text[:-1], False
        return text, False


def columns(indentation: str) -> int:
    """Return the width of blanks at a line's start; a tab goes to the next multiple of 8."""
    return len(indentation.expandtabs(TAB))
