"""One engine, many requests: who is next, who waits, who is cancelled. All of the engine runs in one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from engine.errors import Cancelled, TreelineError
from engine.request import CompletionChunk, CompletionRequest
from engine.server.jobs import Busy, Failure, Job, Kind, Progress, failure_of
from engine.server.metrics import Metrics

LoadProgress = Callable[[str, int, int], None]

ENGINE_THREAD = "engine"  # its name
MAX_WAITING = 256  # jobs; more are refused

logger = logging.getLogger(__name__)


class Completer(Protocol):
    """What the scheduler needs of an engine."""

    @property
    def context(self) -> int:
        """See Engine.context."""
        ...

    def complete(self, request: CompletionRequest, cancelled: Callable[[], bool]) -> Iterator[CompletionChunk]:
        """See Engine.complete."""
        ...

    def reset(self) -> None:
        """See Engine.reset."""
        ...


class Scheduler:
    """Runs jobs in one thread, which first loads the engine.

    Completions come first, the newest before older ones: it is the one that somebody waits for. A chat in progress is
    suspended between passes while completions run. A warming job, which only fills caches, gives way to anything.
    """

    def __init__(
        self, load: Callable[[LoadProgress], Completer], metrics: Metrics, sizes: Mapping[str, int] | None = None
    ) -> None:
        """`load` is called in the engine's thread, with a callback for its progress. `sizes`: bytes of its phases."""
        self._load = load
        self._sizes = sizes or {}
        self._metrics = metrics
        self._condition = threading.Condition()
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._progress = Progress(phase="starting", bytes_total=sum(self._sizes.values()))
        self._context = 0
        self._idle_since = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=ENGINE_THREAD, daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    @property
    def progress(self) -> Progress:
        """How far loading is."""
        return self._progress

    @property
    def context(self) -> int:
        """The model's context in tokens, once it is loaded."""
        return self._context

    @property
    def waiting(self) -> int:
        """How many jobs wait, suspended ones included."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether any job runs or waits."""
        return self._running is not None or bool(self._waiting)

    def idle_seconds(self) -> float:
        """For how long there has been nothing to do."""
        with self._condition:
            return 0.0 if self.busy or self._progress.state == "loading" else time.monotonic() - self._idle_since

    def submit(self, *jobs: Job) -> None:
        """Queue jobs that belong together; those with the key of an older one cancel it. Raises Busy."""
        with self._condition:
            if len(self._waiting) + len(jobs) > MAX_WAITING:
                self._drop_cancelled()
            if len(self._waiting) + len(jobs) > MAX_WAITING or self._progress.state in ("stopped", "failed"):
                raise Busy
            keys = {job.key for job in jobs if job.key}
            for older in (*self._waiting, *([self._running] if self._running else [])):
                if older.key in keys:
                    older.cancel()
            self._waiting += jobs
            self._condition.notify()

    def stop(self) -> None:
        """Cancel everything; what was being answered ends in order. `join` waits for that."""
        with self._condition:
            self._progress = replace(self._progress, state="stopped")
            for job in (*self._waiting, *([self._running] if self._running else [])):
                job.cancel()
            self._condition.notify()

    def join(self, seconds: float) -> None:
        """Wait until the engine's thread has ended, but no longer than `seconds`."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            engine = self._load(self._report)
        except Cancelled:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, clients are told
            self._fail(error)
            return
        self._context = engine.context
        with self._condition:
            if self._progress.state == "loading":
                self._progress = Progress("ready")
            self._idle_since = time.monotonic()
        try:
            while (job := self._next()) is not None:
                self._work(engine, job)
                del job
        except Exception as error:  # noqa: BLE001 - it did not recover from a failure: better none than a broken one
            self._fail(error)

    def _report(self, phase: str, done: int, total: int) -> None:
        if self._progress.state == "stopped":
            raise Cancelled
        size = self._sizes.get(phase, 0)
        self._progress = Progress("loading", phase, done, total, size * done // total if total else 0, size)

    def _fail(self, error: Exception) -> None:
        """Give up: there is no engine, or no more. The process around this ends, and the next client starts another."""
        message = failure_of(error).message
        logger.error("no engine: %s", message, exc_info=None if isinstance(error, TreelineError) else error)
        with self._condition:
            self._progress = Progress("failed", error=message)
            self._idle_since = time.monotonic()
            self._running = None
            waiting, self._waiting = self._waiting, []
        for job in waiting:
            job.deliver(Failure(message, "internal"))

    def _drop_cancelled(self) -> None:
        """Make room: whoever has hung up while waiting keeps nobody out. Jobs that have begun end by themselves."""
        dropped = [job for job in self._waiting if job.cancelled and job.chunks is None]
        self._waiting = [job for job in self._waiting if job not in dropped]
        for job in dropped:
            self._end_unstarted(job)

    def _end_unstarted(self, job: Job) -> None:
        job.deliver(CompletionChunk("", (), "cancelled"))
        self._metrics.finished(job.kind, "cancelled", None)

    def _next(self) -> Job | None:
        """Wait for the next job; None when stopped and nothing is left."""
        with self._condition:
            while not self._waiting:
                if self._progress.state == "stopped":
                    return None
                self._condition.wait()
            self._running = job = self._pick()
            self._waiting.remove(job)
            return job

    def _pick(self) -> Job:
        """Return the newest completion, else the oldest chat, else the oldest job that only warms caches."""
        completions = [job for job in self._waiting if job.kind == "completion"]
        if completions:
            return completions[-1]
        chats = [job for job in self._waiting if job.kind == "chat"]
        return chats[0] if chats else self._waiting[0]

    def _wanted(self, *kinds: Kind) -> bool:
        return any(job.kind in kinds and not job.cancelled for job in tuple(self._waiting))

    def _work(self, engine: Completer, job: Job) -> None:
        """Run a job to its end, or up to where it gives way."""
        suspended = False
        try:
            suspended = self._advance(engine, job)
        except Exception as error:
            failure = failure_of(error)
            job.chunks = None
            job.deliver(failure)
            self._metrics.failed(job.kind)
            if failure.kind in ("memory", "internal"):
                logger.error("a request failed", exc_info=error)
                error.__traceback__ = None  # it holds what the request had allocated
                engine.reset()  # whatever was half done is gone
        with self._condition:
            self._running = None
            self._idle_since = time.monotonic()
            if suspended:
                self._waiting.insert(0, job)

    def _advance(self, engine: Completer, job: Job) -> bool:
        """Deliver chunks until the job ends or gives way; say whether it gave way."""
        if job.chunks is None:
            if job.cancelled:
                self._end_unstarted(job)
                return False
            job.chunks = engine.complete(_less_the_wait(job), lambda: self._stop_asked(job))
            self._metrics.started(time.perf_counter() - job.submitted)
        for chunk in job.chunks:
            job.deliver(chunk)
            if chunk.finish_reason is not None:
                job.chunks = None
                self._metrics.finished(job.kind, chunk.finish_reason, chunk.stats)
                _log_end(job, chunk)
                return False
            if job.kind == "chat" and not job.cancelled and self._wanted("completion"):
                return True
        raise RuntimeError("the completion ended without a last chunk")

    def _stop_asked(self, job: Job) -> bool:
        return job.cancelled or (job.kind == "warming" and self._wanted("completion", "chat"))


def _less_the_wait(job: Job) -> CompletionRequest:
    """Take the time in the queue off the request's deadline."""
    request = job.request
    if request.deadline_ms is None:
        return request
    waited = 1000 * (time.perf_counter() - job.submitted)
    return replace(request, deadline_ms=max(request.deadline_ms - waited, 0.001))


def _log_end(job: Job, chunk: CompletionChunk) -> None:
    if chunk.stats is not None:
        stats = chunk.stats
        logger.info(
            "%s %s: prompt %d (%d cached), new %d, passes %d, %.0f ms",
            job.kind,
            chunk.finish_reason,
            stats.prompt_tokens,
            stats.cached_tokens,
            stats.new_tokens,
            stats.target_passes,
            stats.total_ms,
        )
