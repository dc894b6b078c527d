"""A language client: speaks JSON-RPC with a language server that it has started, over the server's standard streams."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import TreelineError

SECONDS = 120.0  # that an answer may take before the server counts as stuck
KEPT_LINES = 10_000  # of the server's standard error
_CANCELLED = -32800


class Answer:
    """What became of one request: `result`, or the `error` object. `received`: on the event loop's clock."""

    def __init__(self, result: Any, error: Mapping[str, Any] | None, received: float) -> None:
        self.result = result
        self.error = error
        self.received = received

    @property
    def cancelled(self) -> bool:
        """Whether the server says that it was cancelled."""
        return self.error is not None and self.error.get("code") == _CANCELLED


class LanguageClient:
    """One server process. `strays`: answers to no request, or to one that had been answered already."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.strays = 0
        self.stderr: deque[str] = deque(maxlen=KEPT_LINES)
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._watched: dict[str, asyncio.Queue[Any]] = {}
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._read_errors())]

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> LanguageClient:
        """Start a server."""
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment))
        )

    @property
    def unanswered(self) -> int:
        """How many requests are still to be answered."""
        return len(self._waiting)

    def request(self, method: str, params: object) -> tuple[int, asyncio.Future[Answer]]:
        """Send a request; return its number and what its answer will be. Never cancel the future: send `cancel`."""
        self._number += 1
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = future
        if self._tasks[0].done():
            self._give_up()
        else:
            self._send({"id": self._number, "method": method, "params": params})
        return self._number, future

    def notify(self, method: str, params: object) -> None:
        """Send a notification."""
        self._send({"method": method, "params": params})

    def cancel(self, number: int) -> None:
        """Say that the answer to a request is not wanted any more."""
        self.notify("$/cancelRequest", {"id": number})

    async def ask(self, method: str, params: object) -> Any:
        """Send a request and return its result. Raises TreelineError."""
        answer = await self.answer(method, self.request(method, params)[1])
        if answer.error is not None:
            raise TreelineError(f"the language server answers {method} with: {answer.error.get('message')}")
        return answer.result

    async def answer(self, method: str, future: asyncio.Future[Answer]) -> Answer:
        """Wait for an answer. Raises TreelineError if the server has ended or is stuck."""
        try:
            async with asyncio.timeout(SECONDS):
                return await asyncio.shield(future)
        except TimeoutError:
            raise TreelineError(f"the language server did not answer {method} within {SECONDS:.0f} s") from None

    def watch(self, method: str) -> asyncio.Queue[Any]:
        """Return where the parameters of this notification will be put; None when the server has ended."""
        return self._watched.setdefault(method, asyncio.Queue())

    async def drain(self) -> None:
        """Wait until the server has read most of what was sent."""
        assert self.process.stdin is not None
        try:
            await self.process.stdin.drain()
        except ConnectionError:
            return  # whoever waits for an answer is told

    async def stop(self) -> int:
        """End the session as an editor does; return the server's exit status."""
        if self.process.returncode is None and not self._tasks[0].done():
            try:
                await self.ask("shutdown", None)
                self.notify("exit", None)
            except TreelineError:
                self.process.kill()
        elif self.process.returncode is None:
            self.process.kill()
        status = await self.process.wait()
        await asyncio.gather(*self._tasks)
        return status

    # --- the wire ----------------------------------------------------------------------------------------------------

    def _send(self, message: Mapping[str, object]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async def _read(self) -> None:
        try:
            while (message := await self._next()) is not None:
                self._take(message)
        except (asyncio.IncompleteReadError, ValueError):
            pass  # it ended in the middle of a message, or wrote something else
        finally:
            self._give_up()

    async def _next(self) -> dict[str, Any] | None:
        stdout = self.process.stdout
        assert stdout is not None
        length = 0
        while (line := await stdout.readline()).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return json.loads(await stdout.readexactly(length)) if line else None

    def _take(self, message: dict[str, Any]) -> None:
        method, number = message.get("method"), message.get("id")
        if method is not None and number is not None:  # of what servers ask, only settings need more than "yes"
            items = message["params"]["items"] if method == "workspace/configuration" else None
            self._send({"id": number, "result": None if items is None else [None] * len(items)})
        elif method is not None:
            if method in self._watched:
                self._watched[method].put_nowait(message.get("params"))
        elif (future := self._waiting.pop(number, None) if isinstance(number, int) else None) is not None:
            now = asyncio.get_running_loop().time()
            future.set_result(Answer(message.get("result"), message.get("error"), now))
        else:
            self.strays += 1

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.stderr.append(line.decode("utf-8", "replace").rstrip())

    def _give_up(self) -> None:
        """Tell whoever waits that there will be no answer."""
        last = f": {self.stderr[-1]}" if self.stderr else ""
        for future in self._waiting.values():
            future.set_exception(TreelineError(f"the language server has ended{last}"))
            future.exception()  # seen: not everybody waits for every answer
        self._waiting.clear()
        for queue in self._watched.values():
            queue.put_nowait(None)
