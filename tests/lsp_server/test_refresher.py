"""When the imports of documents are looked up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lsp_server import refresher
from lsp_server.refresher import Refresher
from lsp_server.source_text import SourceText


def source(name: str, text: str) -> SourceText:
    return SourceText(f"file:///{name}.py", None, "python", (text,))


class Slow:
    """A lookup that takes until it is let go; fails where the text says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go = threading.Semaphore(0)
        self.running = 0
        self.most = 0

    def __call__(self, given: SourceText) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.append(given.lines[0])
        assert self.go.acquire(timeout=20)
        self.running -= 1
        if "bad" in given.lines[0]:
            raise ValueError(given.lines[0])

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.begun) < count:
                await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresher, "PAUSE_SECONDS", 0.0)


def test_what_is_outdated_is_left_out_and_one_runs_at_a_time() -> None:
    async def check() -> None:
        slow = Slow()
        made = Refresher(slow)
        made.later(source("a", "a1"))
        await slow.wait_for(1)
        for number in range(2, 50):
            made.later(source("a", f"a{number}"))
            made.later(source("b", f"b{number}"))
            await asyncio.sleep(0.001)
        slow.go.release(10)
        await slow.wait_for(3)
        await asyncio.sleep(0.05)
        assert sorted(slow.begun) == ["a1", "a49", "b49"]
        assert slow.most == 1
        made.later(source("a", "a50"))
        await slow.wait_for(4)
        assert slow.begun[-1] == "a50"

    asyncio.run(check())


def test_a_closed_document_is_not_looked_up() -> None:
    async def check() -> None:
        slow = Slow()
        made = Refresher(slow)
        made.later(source("a", "a"))
        await slow.wait_for(1)
        for name in ("b", "c", "d"):
            made.later(source(name, name))
        await asyncio.sleep(0.02)  # b, c and d are due
        made.forget(source("b", "").uri)
        made.later(source("c", "c2"))  # and c waits for a pause again
        made.forget(source("c", "").uri)
        slow.go.release(10)
        await slow.wait_for(2)
        await asyncio.sleep(0.05)
        assert slow.begun == ["a", "d"]

    asyncio.run(check())


def test_one_that_fails_does_not_keep_the_others_from_it(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        slow = Slow()
        slow.go.release(10)
        made = Refresher(slow)
        made.later(source("a", "bad"))
        made.later(source("b", "b"))
        await slow.wait_for(2)
        made.later(source("a", "a2"))
        await slow.wait_for(3)
        assert slow.begun == ["bad", "b", "a2"]

    asyncio.run(check())
    assert [record.getMessage() for record in caplog.records] == ["definitions could not be looked up"]
