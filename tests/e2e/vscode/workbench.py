"""What a person sees of the workbench, and does in it."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlparse

from playwright.sync_api import Locator, Page, expect

from tests.e2e.vscode.code_server import CodeServer
from tests.e2e.vscode.recording import Recording, until

GHOST = ".ghost-text-decoration, .ghost-text-decoration-preview, .ghost-text"


@dataclass(frozen=True, slots=True)
class Workbench:
    """A window with a folder open."""

    page: Page
    server: CodeServer
    folder: Path
    recording: Recording

    def load(self, file: Path | None = None) -> None:
        """Show the folder, and a file of it."""
        payload = ""
        if file is not None:
            place = f"vscode-remote://{urlparse(self.server.url).netloc}{quote(str(file))}"
            payload = "&payload=" + quote(json.dumps([["openFile", place]]))
        self.page.goto(f"{self.server.url}/?folder={quote(str(self.folder))}{payload}")
        expect(self.status).to_be_visible()
        if file is not None:
            expect(self.editor).to_be_visible()
            self.focus()

    # --- what is there -----------------------------------------------------------------------------------------------

    @property
    def editor(self) -> Locator:
        """The text editor."""
        return self.page.locator(".editor-instance .monaco-editor").first

    @property
    def status(self) -> Locator:
        """Treeline's item in the status bar."""
        return self.page.locator(".statusbar-item[id='treeline.treeline-vscode.treeline.status']")

    @property
    def ghost(self) -> Locator:
        """The pieces of a suggestion that is shown."""
        return self.page.locator(GHOST)

    def ghost_text(self) -> str:
        """Return the suggestion that is shown, or nothing: its pieces in the cursor's line, then its further lines."""
        inline = self.page.locator(".ghost-text-decoration, .ghost-text-decoration-preview").all_text_contents()
        lines = self.page.locator(".suggest-preview-text .view-line").all_text_contents()
        return re.sub(r"[\u200b\u200c]", "", "\n".join(["".join(inline), *lines])).replace("\u00a0", " ")

    def summary(self) -> str:
        """Return what the status item says of Treeline's state, in words."""
        return (self.status.locator("a").first.get_attribute("aria-label") or "").removeprefix("Treeline: ")

    def wait_for_ghost(self) -> str:
        """Return the suggestion, once there is one."""
        expect(self.ghost.first).to_be_visible()
        return self.ghost_text()

    def wait_for_ghost_text(self, text: str) -> None:
        """Return once this very suggestion is shown."""
        until(lambda: self.ghost_text() == text, lambda: f"suggestion {text!r}, not {self.ghost_text()!r}")

    def said(self) -> list[str]:
        """Return what the status item has said so far: its text and, behind a bar, its description."""
        return self.page.evaluate("window.treelineSaid")

    def text(self) -> str:
        """Return the words of the document in the editor that is open, as far as it is in view."""
        lines = self.editor.locator(".view-lines > .view-line").all_text_contents()
        return "\n".join(lines).replace("\u00a0", " ")

    def wait_for_no_ghost(self) -> None:
        """Return once none is shown."""
        expect(self.ghost).to_have_count(0)

    def wait_until_ready(self) -> None:
        """Return once the engine is loaded."""
        self.wait_for_summary("ready")

    def wait_for_summary(self, pattern: str) -> None:
        """Return once the status item says so."""
        until(lambda: re.search(pattern, self.summary()), lambda: f"status {pattern!r}, not {self.summary()!r}")

    def messages(self) -> list[str]:
        """Return all messages so far that were not closed, also those that are not shown any more."""
        self.command("Notifications: Show Notifications")
        center = self.page.locator(".notifications-center")
        expect(center).to_be_visible()
        return center.locator(".notification-list-item-message").all_text_contents()

    def notification(self, text: str) -> Locator:
        """A message in the corner."""
        return self.page.locator(".notification-toast").filter(has_text=text)

    # --- what a person does ------------------------------------------------------------------------------------------

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def focus(self) -> None:
        """Put the cursor at the end of the file."""
        self.editor.locator(".view-lines").click()
        self.press("Control+End")

    def type(self, text: str, delay: float = 0) -> None:
        """Type, `delay` milliseconds a key."""
        self.page.keyboard.type(text, delay=delay)

    def command(self, title: str) -> None:
        """Run a command by its title."""
        self.press("F1")
        box = self.page.locator(".quick-input-widget input.input, .quick-input-widget input").first
        expect(box).to_be_visible()
        box.fill(f">{title}")
        label = self.page.locator(".label-name", has_text=re.compile(f"^{re.escape(title)}$"))
        row = self.page.locator(".quick-input-list .monaco-list-row").filter(has=label)
        expect(row).to_be_visible()
        row.click()

    def open(self, name: str, *, text: bool = True) -> None:
        """Open a file of the folder; if it is `text`, put the cursor at its end."""
        self.press("Control+P")
        box = self.page.locator(".quick-input-widget input").first
        expect(box).to_be_visible()
        box.fill(name)
        expect(self.page.locator(".quick-input-list .monaco-list-row").filter(has_text=name).first).to_be_visible()
        self.press("Enter")
        expect(self.page.locator(".tab.active").filter(has_text=name)).to_be_visible()
        if text:
            self.focus()

    def write_settings(self, **changes: object) -> None:
        """Change the user's settings in the editor; `__` in a name stands for a dot."""
        settings = self.server.settings() | {key.replace("__", "."): value for key, value in changes.items()}
        self.command("Preferences: Open User Settings (JSON)")
        tab = self.page.locator(".tab.active").filter(has_text="settings.json")
        expect(tab).to_be_visible()
        self.editor.locator(".view-lines").click()
        self.press("Control+A")
        expect(self.page.locator("[id='status.editor.selection']")).to_contain_text("selected")
        self.press("Delete")  # what is typed over a selection may surround it
        text = json.dumps(settings)
        self.page.keyboard.insert_text(text)
        self.press("Control+S")
        until(lambda: self.server.settings_file.read_text() == text, f"settings on disk: {changes}")
        self.command("View: Close Editor")
        expect(tab).to_have_count(0)
        self.focus()

    def save(self, file: Path, text: str) -> None:
        """Save, and wait until the file holds `text`."""
        self.press("Control+S")
        there = functools.partial(file.read_text, encoding="utf-8")
        until(lambda: text in there(), lambda: f"{text!r} in {file.name}: {there()!r}")
