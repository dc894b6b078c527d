"""The web chat in a headless browser: what a user does and sees, and that the page comes from this machine alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from engine.launch import running
from tests.server.serving import private_daemons

if TYPE_CHECKING:
    from playwright.sync_api import Page  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A browser that runs as root, without a GPU, and does nothing but what it is told.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000  # for what comes, however busy the machine
SCREENSHOT = os.environ.get("TREELINE_SCREENSHOT")  # where to keep a picture of the page; docs/chat.png is one

pytest.importorskip("gradio", reason="the extra `web` is not installed")
playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install it")
if BROWSER is None:
    pytest.skip("no browser: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with private_daemons(tmp_path_factory.mktemp("web")) as made:
        yield made


@pytest.fixture(scope="module")
def where(chat_pair: list[str], environment: dict[str, str]) -> Iterator[str]:
    """The address of a web chat with the chat checkpoint."""
    command = [sys.executable, "-m", "engine", "chat", "--web", *chat_pair, "--max-tokens", "40"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        process.stdout.close() if process.stdout else None


@pytest.fixture
def page(where: str) -> Iterator[Page]:
    """The page in a fresh browser, which notes whom it asks for anything."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        opened = browser.new_context(viewport={"width": 1200, "height": 860}).new_page()
        asked: set[str] = set()
        opened.on("request", lambda request: asked.add(urlsplit(request.url).hostname or ""))
        opened.goto(where, timeout=120_000)
        opened.locator("#message textarea").wait_for(timeout=120_000)
        yield opened
        assert asked <= {"127.0.0.1", ""}
        browser.close()


def say(page: Page, text: str, statistics: str | re.Pattern[str] = "tokens/s") -> None:
    page.locator("#message textarea").fill(text)
    page.locator("#message button.submit-button").click()
    page.locator("#statistics", has_text=statistics).wait_for(timeout=PATIENCE_MS)  # the engine may have to start first


def say_something_long(page: Page) -> None:
    """Send the second message of a tab, and return once a part of its answer is there."""
    page.get_by_label("number input for Temperature").fill("2")
    page.get_by_label("number input for Most tokens").fill("1500")
    page.locator("#message textarea").fill("numbers = [")
    page.locator("#message button.submit-button").click()
    second = "document.querySelectorAll('#history .bot.message, #history .message.bot')[1]"
    page.wait_for_function(f"{second}?.innerText.trim().length > 20", timeout=PATIENCE_MS)


def answers(page: Page) -> list[str]:
    return page.locator("#history .bot.message, #history .message.bot").all_inner_texts()


def test_a_message_is_answered_and_the_next_finds_it_in_the_cache(page: Page) -> None:
    say(page, "def area(width, height):")
    (first,) = answers(page)
    assert first.strip()
    assert "0 cached" in page.locator("#statistics").inner_text()
    assert "chatty" in page.locator("body").inner_text()
    say(page, "def volume(width, height, depth):", statistics=re.compile(r"\b[1-9]\d* cached"))
    assert len(answers(page)) == 2
    if SCREENSHOT:
        page.screenshot(path=SCREENSHOT)
    page.locator("#clear").click()
    page.wait_for_function("!document.querySelector('#history .bot')")
    assert answers(page) == []


def test_text_arrives_while_the_answer_is_computed(page: Page) -> None:
    page.evaluate(
        """() => { window.lengths = new Set(); new MutationObserver(() => {
            const told = document.querySelector('#history .bot');
            if (told) window.lengths.add(told.innerText.length);
        }).observe(document.body, {subtree: true, childList: true, characterData: true}); }"""
    )
    page.get_by_label("number input for Temperature").fill("2")
    page.get_by_label("number input for Most tokens").fill("400")
    say(page, "numbers = [")
    assert page.evaluate("window.lengths.size") > 3


def test_the_sliders_decide_how_the_next_answer_is_sampled(page: Page) -> None:
    say(page, "def area(width, height):")
    (greedy,) = answers(page)
    page.locator("#clear").click()
    page.wait_for_function("!document.querySelector('#history .bot')")
    page.get_by_label("range slider for Temperature").press("End")
    page.get_by_label("range slider for Most tokens").press("ArrowLeft")
    say(page, "def area(width, height):", statistics=re.compile(r"^\s*(39|[12]?\d) tokens"))
    assert answers(page)[0] != greedy


def test_stop_ends_the_answer_and_keeps_what_there_is(page: Page, environment: dict[str, str]) -> None:
    say(page, "import os")  # the engine and the browser have loaded what they need
    say_something_long(page)
    page.locator("#stop").click()
    (daemon,) = running(environment)
    late = time.monotonic() + PATIENCE_MS / 1000
    while " chat cancelled: " not in daemon.files.log.read_text():
        assert time.monotonic() < late
        page.wait_for_timeout(20)
    _, stopped = answers(page)
    assert stopped.strip()


def test_stop_ends_what_its_own_tab_waits_for(page: Page, where: str, environment: dict[str, str]) -> None:
    say(page, "import os")
    other = page.context.new_page()
    other.goto(where, timeout=120_000)
    other.locator("#message textarea").fill("import sys")
    (daemon,) = running(environment)
    cancelled = daemon.files.log.read_text().count(" chat cancelled: ")
    say_something_long(page)
    os.kill(daemon.pid, signal.SIGSTOP)  # the answer stays in progress for as long as the other tab takes
    try:
        other.locator("#message button.submit-button").click()
        other.locator("#statistics", has_text="queue").wait_for(state="attached", timeout=PATIENCE_MS)
        with other.expect_response(lambda response: response.url.endswith("/run/predict")):  # it is noted
            other.locator("#stop").click()
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    page.locator("#statistics", has_text=re.compile(r"\b\d{3,} tokens")).wait_for(timeout=PATIENCE_MS)
    other.wait_for_function(
        "!/queue|processing/.test(document.querySelector('#statistics').textContent)", timeout=PATIENCE_MS
    )
    assert other.locator("#message textarea").input_value() == "import sys"
    assert answers(other) == []
    assert daemon.files.log.read_text().count(" chat cancelled: ") == cancelled


def test_what_goes_wrong_is_said_on_the_page(page: Page) -> None:
    say(page, "x = 1 " * 3000, statistics="longer than the model's context")
    assert answers(page) == []
    assert page.locator("#message textarea").input_value().startswith("x = 1 ")
