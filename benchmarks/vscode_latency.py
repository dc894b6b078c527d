"""From key to ghost text in VS Code's workbench, beside the language server's own time.

    python -m benchmarks.vscode_latency --keystrokes 60

Headless Chromium shows the workbench, with the packaged extension and the bundled pair; it types the lines of a file
that is in no training set, at a steady pace. The page itself notes when a key went down and when the suggestion that
is drawn has changed for the first time since then. The server's own time is what passes between a request at its
input and the answer at its output, its wait for the typing to pause included. Keys that show no suggestion, or whose
suggestion was on its way before, are counted and left out. `fresh`: no suggestion stood there before the key; `along`:
one did, and the typing went along with it or left it for another.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common import Spread, environment, print_environment, print_json, print_table, spread
from tests.e2e.vscode.recording import Exchange
from tests.e2e.vscode.window import obstacle, one_window
from tests.e2e.vscode.workbench import Workbench

PAUSE_MS = 250  # between keys, as somebody types who looks at suggestions
PATIENCE_MS = 1500

BEFORE = '''"""Shapes, and how large they are."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass


@dataclass
class Rectangle:
    """A rectangle, in centimetres."""

    width: float
    height: float

    def area(self) -> float:
        """Return the area."""
        return self.width * self.height


'''
TYPED = '''@dataclass
class Circle:
    """A circle."""

    radius: float

    def area(self) -> float:
        """Return the area."""
        return math.pi * self.radius ** 2

def save(shapes, path):
    """Write shapes to a file."""
    with open(path, "w") as file:
        json.dump(shapes, file)

def load(path):
    """Read shapes from a file."""
    with open(path) as file:
        return json.load(file)
'''

# Times are of one clock: milliseconds since the epoch, as Chromium reckons them.
WATCH = """
window.keys = [];
const drawn = () => [...document.querySelectorAll(".ghost-text-decoration, .suggest-preview-text .view-line")]
    .map((each) => each.textContent).join("\\n");
const now = () => performance.timeOrigin + performance.now();
window.addEventListener("keydown", (event) => {
    window.keys.push({ at: performance.timeOrigin + event.timeStamp, before: drawn(), shown: null });
}, true);
new MutationObserver(() => {
    const key = window.keys.at(-1);
    if (!key || key.shown !== null) return;
    const text = drawn();
    if (text && text !== key.before) key.shown = now();
}).observe(document, { subtree: true, childList: true, characterData: true });
"""


@dataclass(frozen=True, slots=True)
class Keystroke:
    """One key that changed what is suggested. Times in milliseconds; `server`: None where the server was not asked."""

    along: bool
    shown_ms: float
    server_ms: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """Spreads over some keystrokes. `editor_ms`: what is not the server's own time."""

    keystrokes: int
    key_to_ghost_ms: Spread | None
    server_ms: Spread | None
    editor_ms: Spread | None


@dataclass(frozen=True, slots=True)
class Result:
    """All keystrokes that showed something, those before which none stood there, and the others.

    `activation_ms`: what the editor says of the extension's start.
    """

    activation_ms: int | None
    typed: int
    without_suggestion: int
    all: Group
    fresh: Group
    along: Group


def group(keystrokes: Sequence[Keystroke]) -> Group:
    """Summarise keystrokes."""
    asked = [(each.shown_ms, each.server_ms) for each in keystrokes if each.server_ms is not None]
    return Group(
        len(keystrokes),
        spread([each.shown_ms for each in keystrokes]) if keystrokes else None,
        spread([server for _, server in asked]) if asked else None,
        spread([shown - server for shown, server in asked]) if asked else None,
    )


def pair(keys: Sequence[Mapping[str, Any]], exchanges: Sequence[Exchange]) -> list[Keystroke]:
    """Put each key that showed something together with the server's answer to it."""
    ends = [each["at"] for each in keys[1:]] + [float("inf")]
    found: list[Keystroke] = []
    for key, end in zip(keys, ends, strict=True):
        if key["shown"] is None:
            continue
        answers = [each for each in exchanges if key["at"] <= 1000 * each.sent < end and each.items]
        server = 1000 * (answers[0].answered - answers[0].sent) if answers else None
        found.append(Keystroke(bool(key["before"]), key["shown"] - key["at"], server))
    return found


def measure(window: Workbench, wanted: int) -> Result:
    """Type until `wanted` keys have shown something, or all is typed."""
    window.wait_until_ready()
    for character in TYPED:
        window.press("Enter" if character == "\n" else character)
        if character == "\n":
            window.press("Escape", "Shift+Home", "Delete")  # what the editor has indented by itself
        window.page.wait_for_timeout(PAUSE_MS)
        asked = window.page.evaluate("window.keys.at(-1).shown === null")
        if asked:
            late = time.monotonic() + PATIENCE_MS / 1000
            while time.monotonic() < late and window.page.evaluate("window.keys.at(-1).shown === null"):
                window.page.wait_for_timeout(50)
        if window.page.evaluate("window.keys.filter((each) => each.shown !== null).length") >= wanted:
            break
    keys = window.page.evaluate("window.keys")
    found = pair(keys, window.recording.exchanges())
    fresh, along = [each for each in found if not each.along], [each for each in found if each.along]
    return Result(activation(window), len(keys), len(keys) - len(found), group(found), group(fresh), group(along))


def activation(window: Workbench) -> int | None:
    """Return how many milliseconds the extension took to start, as the editor has measured it."""
    window.command("Developer: Show Running Extensions")
    row = window.page.locator(".runtime-extensions-editor .extension").filter(has_text="Treeline")
    row.wait_for()
    found = re.search(r"(\d+)\s?ms", row.text_content() or "")
    return int(found[1]) if found else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keystrokes", type=int, default=60, metavar="N", help="that show something; default: 60")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if reason := obstacle():
        print(reason, file=sys.stderr)
        return 1
    here = environment()
    with one_window({"shapes.py": BEFORE}, {"editor.autoIndent": "none"}, script=WATCH) as window:
        result = measure(window, options.keystrokes)
    if options.json:
        print_json({"environment": here, "result": result})
        return 0
    print_environment(here)
    rows = [(name, part) for name in ("all", "fresh", "along") if (part := getattr(result, name)).keystrokes]
    print_table(
        ("keystrokes", "n", "key to ghost text: median, p95", "server: median, p95", "the rest: median, p95"),
        [(name, str(part.keystrokes), *map(_spelled, _spreads(part))) for name, part in rows],
    )
    print(f"The extension was activated in {result.activation_ms} ms.")
    print(f"{result.typed} keys typed, {result.without_suggestion} of them showed nothing new; milliseconds")
    return 0


def _spreads(part: Group) -> tuple[Spread | None, ...]:
    return part.key_to_ghost_ms, part.server_ms, part.editor_ms


def _spelled(values: Spread | None) -> str:
    return f"{values.median:.1f}, {values.p95:.1f}" if values else "-"


if __name__ == "__main__":
    sys.exit(main())
