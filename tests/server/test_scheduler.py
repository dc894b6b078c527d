"""Who is next, who gives way, who is cancelled: the scheduler with an engine that does as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Queue

import pytest

from engine.errors import ContextOverflowError, EngineFaultError, MemoryFullError, TreelineError
from engine.request import CompletionChunk, CompletionRequest, CompletionStats
from engine.server.jobs import Busy, Event, Failure, Job, Kind
from engine.server.metrics import Metrics
from engine.server.scheduler import MAX_WAITING, Scheduler

STATS = CompletionStats(10, 4, 3, 2, 1.5, 8, 5.0, 6.0, 30.0, 200.0, 1 << 20)
PASSES = 3


class Engine:
    """Answers a request in PASSES chunks, each when the test allows one; writes down what it works on."""

    context = 100

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.worked: list[str] = []
        self.resets = 0

    def complete(self, request: CompletionRequest, cancelled: Callable[[], bool]) -> Iterator[CompletionChunk]:
        for number in range(PASSES):
            self.worked.append(request.prefix)
            while not self.allowed.acquire(timeout=0.01):
                if cancelled():
                    yield CompletionChunk("", (), "cancelled", STATS)
                    return
            if request.prefix == "broken":
                raise ValueError("what the user wrote")
            if request.prefix == "refused":
                raise TreelineError("ask for something else")
            if request.prefix == "long":
                raise ContextOverflowError("some of it has to go")
            if request.prefix == "damaged":
                raise EngineFaultError("the store is damaged")
            if request.prefix == "full":
                raise MemoryFullError("the GPU's memory is full")
            if request.prefix == "huge":
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            yield CompletionChunk(str(number), (number,))
        yield CompletionChunk("", (), "stop", STATS)

    def reset(self) -> None:
        self.resets += 1


class Asked:
    """A job and what came of it."""

    def __init__(self, prefix: str, kind: Kind = "completion", key: str = "", deadline_ms: float | None = None) -> None:
        self.events: Queue[Event] = Queue()
        request = CompletionRequest(prefix, deadline_ms=deadline_ms)
        self.job = Job(request, self.events.put, kind, key)

    def next(self) -> Event:
        return self.events.get(timeout=30)

    def ending(self) -> Event:
        while True:
            event = self.next()
            if isinstance(event, Failure) or event.finish_reason is not None:
                return event


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def scheduler(engine: Engine, metrics: Metrics) -> Iterator[Scheduler]:
    made = Scheduler(lambda _: engine, metrics)
    made.start()
    yield made
    made.stop()
    made.join(30)


def begin(scheduler: Scheduler, engine: Engine, asked: Asked) -> None:
    """Submit a job and wait until the engine works on it."""
    before = len(engine.worked)
    scheduler.submit(asked.job)
    while len(engine.worked) == before:
        threading.Event().wait(0.001)


def reason(event: Event) -> str | None:
    assert isinstance(event, CompletionChunk)
    return event.finish_reason


def test_the_newest_completion_comes_first(scheduler: Scheduler, engine: Engine) -> None:
    running = Asked("running")
    begin(scheduler, engine, running)
    waiting = [Asked(name) for name in ("old", "newer", "newest")]
    for each in waiting:
        scheduler.submit(each.job)
    engine.allowed.release(100)
    for each in (running, *waiting):
        assert reason(each.ending()) == "stop"
    assert list(dict.fromkeys(engine.worked)) == ["running", "newest", "newer", "old"]


def test_a_newer_request_of_the_same_document_cancels_the_older(scheduler: Scheduler, engine: Engine) -> None:
    first, second, third = (Asked(name, key="a") for name in "123")
    other = Asked("4", key="b")
    begin(scheduler, engine, first)
    for each in (other, second, third):
        scheduler.submit(each.job)
    assert reason(first.ending()) == "cancelled"
    engine.allowed.release(100)
    assert [reason(each.ending()) for each in (second, third, other)] == ["cancelled", "stop", "stop"]
    assert "2" not in engine.worked  # it was never begun


def test_requests_without_a_key_leave_each_other_alone(scheduler: Scheduler, engine: Engine) -> None:
    engine.allowed.release(100)
    asked = [Asked(str(number)) for number in range(5)]
    for each in asked:
        scheduler.submit(each.job)
    assert [reason(each.ending()) for each in asked] == ["stop"] * 5


def test_a_chat_gives_way_between_passes_and_goes_on(scheduler: Scheduler, engine: Engine) -> None:
    chat, later, completion = Asked("chat", "chat"), Asked("later", "chat"), Asked("completion")
    begin(scheduler, engine, chat)
    scheduler.submit(later.job)
    scheduler.submit(completion.job)
    engine.allowed.release(100)
    for each in (chat, later, completion):
        assert reason(each.ending()) == "stop"
    assert engine.worked == ["chat", *["completion"] * 3, *["chat"] * 2, *["later"] * 3]


def test_a_suspended_chat_can_be_cancelled(scheduler: Scheduler, engine: Engine) -> None:
    chat, completion = Asked("chat", "chat"), Asked("completion")
    begin(scheduler, engine, chat)
    scheduler.submit(completion.job)
    engine.allowed.release(1)
    chat.next()
    chat.job.cancel()
    engine.allowed.release(PASSES)
    assert reason(completion.ending()) == "stop"
    assert reason(chat.ending()) == "cancelled"


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_warming_is_given_up_for_anything_else(scheduler: Scheduler, engine: Engine, kind: Kind) -> None:
    warming, wanted = Asked("warming", "warming"), Asked("wanted", kind)
    begin(scheduler, engine, warming)
    scheduler.submit(wanted.job)
    assert reason(warming.ending()) == "cancelled"
    engine.allowed.release(PASSES)
    assert reason(wanted.ending()) == "stop"


@pytest.mark.parametrize(
    ("prefix", "kind", "resets"),
    [
        ("broken", "internal", 1),
        ("damaged", "internal", 1),
        ("refused", "request", 0),
        ("long", "context", 0),
        ("huge", "memory", 1),
        ("full", "memory", 1),
    ],
)
def test_a_failure_is_the_requests_alone(
    scheduler: Scheduler, engine: Engine, prefix: str, kind: str, resets: int
) -> None:
    engine.allowed.release(100)
    failing, following = Asked(prefix), Asked("following")
    scheduler.submit(failing.job)
    failure = failing.ending()
    assert isinstance(failure, Failure)
    assert failure.kind == kind
    assert "what the user wrote" not in failure.message
    scheduler.submit(following.job)
    assert reason(following.ending()) == "stop"
    assert engine.resets == resets


def test_the_time_in_the_queue_counts_towards_the_deadline(scheduler: Scheduler, engine: Engine) -> None:
    given: list[float | None] = []
    complete = engine.complete

    def spy(request: CompletionRequest, cancelled: Callable[[], bool]) -> Iterator[CompletionChunk]:
        given.append(request.deadline_ms)
        return complete(request, cancelled)

    engine.complete = spy  # type: ignore[method-assign]
    running, hurried = Asked("running"), Asked("hurried", deadline_ms=60_000)
    begin(scheduler, engine, running)
    scheduler.submit(hurried.job)
    threading.Event().wait(0.05)
    engine.allowed.release(100)
    hurried.ending()
    assert given[0] is None
    assert given[1] is not None
    assert 0 < given[1] <= 60_000 - 50


def test_too_many_are_refused_and_stopping_ends_all(scheduler: Scheduler, engine: Engine) -> None:
    running = Asked("running")
    begin(scheduler, engine, running)
    waiting = [Asked(str(number)) for number in range(MAX_WAITING)]
    scheduler.submit(*(each.job for each in waiting))
    with pytest.raises(Busy):
        scheduler.submit(Asked("one more").job)
    scheduler.stop()
    assert {reason(each.ending()) for each in (running, *waiting)} == {"cancelled"}
    assert not set(engine.worked) - {"running"}
    with pytest.raises(Busy):
        scheduler.submit(Asked("too late").job)
    scheduler.join(30)
    assert not scheduler.busy


def test_those_who_gave_up_while_waiting_keep_nobody_out(scheduler: Scheduler, engine: Engine) -> None:
    running = Asked("running")
    begin(scheduler, engine, running)
    waiting = [Asked(str(number)) for number in range(MAX_WAITING)]
    scheduler.submit(*(each.job for each in waiting))
    for each in waiting[:2]:
        each.job.cancel()
    scheduler.submit(Asked("one more").job, Asked("and another").job)
    assert {reason(each.ending()) for each in waiting[:2]} == {"cancelled"}  # while the engine is busy
    with pytest.raises(Busy):
        scheduler.submit(Asked("too many").job)


def test_what_fails_to_load_says_why() -> None:
    def load(_: object) -> Engine:
        raise TreelineError("the model is not here")

    scheduler = Scheduler(load, Metrics())
    scheduler.start()
    scheduler.join(30)
    assert (scheduler.progress.state, scheduler.progress.error) == ("failed", "the model is not here")


def test_loading_is_given_up_when_stopped() -> None:
    begun, go_on = threading.Event(), threading.Event()
    phases: list[int] = []

    def load(progress: Callable[[str, int, int], None]) -> Engine:
        for layer in range(3):
            phases.append(layer)
            progress("target", layer, 3)
            begun.set()
            go_on.wait(30)
        return Engine()

    scheduler = Scheduler(load, Metrics())
    scheduler.start()
    begun.wait(30)
    assert (scheduler.progress.phase, scheduler.progress.total) == ("target", 3)
    scheduler.stop()
    go_on.set()
    scheduler.join(30)
    assert phases == [0, 1]


def test_metrics_count_what_happened(scheduler: Scheduler, engine: Engine, metrics: Metrics) -> None:
    engine.allowed.release(100)
    for prefix in ("a", "b", "broken"):
        asked = Asked(prefix)
        scheduler.submit(asked.job)
        asked.ending()
    while scheduler.busy:
        threading.Event().wait(0.001)
    lines = metrics.text({"waiting": ("Waiting.", scheduler.waiting)}).splitlines()
    assert 'treeline_requests_total{kind="completion",end="stop"} 2' in lines
    assert 'treeline_requests_total{kind="completion",end="error"} 1' in lines
    for name, value in (("prompt", 20), ("cached", 8), ("new", 6)):
        assert f"treeline_{name}_tokens_total {value}" in lines
    assert "treeline_target_passes_total 4" in lines
    assert 'treeline_first_token_seconds_bucket{le="0.01"} 2' in lines
    assert "treeline_queue_seconds_count 3" in lines
    assert "treeline_waiting 0" in lines


def test_an_engine_that_does_not_recover_is_given_up(scheduler: Scheduler, engine: Engine) -> None:
    def reset() -> None:
        raise MemoryError

    engine.reset = reset  # type: ignore[method-assign]
    engine.allowed.release(100)
    failing, waiting = Asked("broken"), Asked("waiting", "warming")
    scheduler.submit(failing.job, waiting.job)
    assert isinstance(failing.ending(), Failure)
    assert isinstance(waiting.ending(), Failure)
    scheduler.join(30)
    assert scheduler.progress.state == "failed"
    assert not scheduler.busy
