"""Takes the pictures of docs/vscode.md in the real workbench.

    python -m tests.e2e.vscode.pictures

Writes docs/vscode-*.png, and vscode-extension/media/typing.png, an animation (https://www.w3.org/TR/png-3/#apng).
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from playwright.sync_api import expect

from tests.e2e.vscode.code_server import ROOT
from tests.e2e.vscode.window import obstacle, one_window
from tests.e2e.vscode.workbench import Workbench

DOCS = ROOT / "docs"
FILES = {
    "files.py": '''"""Lines of text files."""


def read_lines(path):
    """Return the lines of a file."""
    with open(path) as file:
        return file.readlines()


def write_lines(path, lines):
    """Write lines to a file."""
''',
    "shapes.py": '''def area(width, height):
    """Return the area of a rectangle."""
    return width * height


def perimeter(width, height):
    """Return the perimeter of a rectangle."""
''',
}
LOOKS = {"window.commandCenter": False, "editor.fontSize": 15, "treeline.deadlineMs": 60_000}


def main() -> int:
    """Take them all."""
    if reason := obstacle():
        print(reason, file=sys.stderr)
        return 1
    with one_window(FILES, LOOKS, (920, 560)) as window:
        window.wait_until_ready()
        editing(window)
        window.page.mouse.move(5, 5)
        menu(window)
        statistics(window)
        walkthrough(window)
    with one_window(
        dict(reversed(FILES.items())), {**LOOKS, "editor.stickyScroll.enabled": False}, (640, 330)
    ) as window:
        window.command("View: Toggle Primary Side Bar Visibility")
        window.focus()
        window.wait_until_ready()
        animation(ROOT / "vscode-extension" / "media" / "typing.png", list(typing(window)))
    return 0


def editing(window: Workbench) -> None:
    """A suggestion of several lines."""
    window.type("    with ")
    window.wait_for_ghost()
    window.wait_until_ready()
    take(window, "ghost-text")
    window.press("Tab")
    window.press("Control+S")


def menu(window: Workbench) -> None:
    """What the status item opens."""
    window.wait_until_ready()
    window.status.click()
    expect(window.page.locator(".quick-input-list .monaco-list-row").first).to_be_visible()
    take(window, "menu")
    window.press("Escape")


def statistics(window: Workbench) -> None:
    """What became of suggestions."""
    window.command("Treeline: Show Statistics")
    frame = window.page.frame_locator("iframe.webview").frame_locator("#active-frame")
    expect(frame.locator("tr").first).to_be_visible(timeout=60_000)
    take(window, "statistics")
    window.command("View: Close Editor")


def walkthrough(window: Workbench) -> None:
    """The first steps."""
    window.page.set_viewport_size({"width": 1180, "height": 560})
    window.command("View: Toggle Primary Side Bar Visibility")
    window.command("Treeline: First Steps")
    expect(window.page.locator("h2", has_text="First steps with Treeline")).to_be_visible(timeout=60_000)
    step = window.page.locator(".getting-started-step").filter(has_text="Choose a model")
    step.click()
    expect(window.page.locator(".getting-started-media").first).to_be_visible(timeout=60_000)
    window.page.wait_for_timeout(1500)  # the step's page is faded in
    take(window, "walkthrough")


def take(window: Workbench, name: str) -> None:
    """Write a picture."""
    path = DOCS / f"vscode-{name}.png"
    window.page.screenshot(path=path, animations="disabled")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


def typing(window: Workbench) -> Iterator[tuple[bytes, int]]:
    """Yield pictures and how long each is shown, in milliseconds."""
    yield window.editor.screenshot(), 600
    for character in "    return":
        window.type(character)
        window.page.wait_for_timeout(50)
        if character in "etr":
            yield window.editor.screenshot(), 120
    window.wait_for_ghost()
    yield window.editor.screenshot(), 1500
    window.press("Tab")
    window.wait_for_no_ghost()
    yield window.editor.screenshot(), 2000


def animation(path: Path, frames: Sequence[tuple[bytes, int]]) -> None:
    """Write frames of one size as one PNG file, which begins with the first and repeats for ever."""
    number = 0
    first = [chunk for chunk in chunks(frames[0][0]) if chunk[0] in (b"IHDR", b"PLTE", b"tRNS")]
    width, height = struct.unpack(">II", first[0][1][:8])
    parts = [*first, (b"acTL", struct.pack(">II", len(frames), 0))]
    for index, (picture, milliseconds) in enumerate(frames):
        control = struct.pack(">IIIIIHHBB", number, width, height, 0, 0, milliseconds, 1000, 0, 0)
        parts.append((b"fcTL", control))
        number += 1
        data = b"".join(content for kind, content in chunks(picture) if kind == b"IDAT")
        data = zlib.compress(zlib.decompress(data), 9)
        if index == 0:
            parts.append((b"IDAT", data))
        else:
            parts.append((b"fdAT", struct.pack(">I", number) + data))
            number += 1
    parts.append((b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed(kind, content) for kind, content in parts))
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


def chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG file."""
    at = 8
    while at < len(picture):
        (length,) = struct.unpack(">I", picture[at : at + 4])
        yield picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        at += 12 + length


def packed(kind: bytes, content: bytes) -> bytes:
    """Return a chunk as it is written."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


if __name__ == "__main__":
    sys.exit(main())
