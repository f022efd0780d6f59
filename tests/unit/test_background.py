import threading
from collections.abc import Callable, Iterator

import pytest

from pygeoapi_prefect.background import BackgroundLoop
from pygeoapi_prefect.errors import BackendUnavailable

DEADLINE_SECONDS = 120
NEVER_SECONDS = 1e6
NAME = "a loop of these tests"

MakeLoop = Callable[..., BackgroundLoop]


@pytest.fixture
def make_loop() -> Iterator[MakeLoop]:
    loops: list[BackgroundLoop] = []

    def make(step: Callable[[], float], **settings: float) -> BackgroundLoop:
        loops.append(BackgroundLoop(step, name=NAME, **{"retry_seconds": 0.0, **settings}))
        return loops[-1]

    yield make
    for loop in loops:
        loop.stop()


def count_threads() -> int:
    """How many threads of loops there are; others come and go as they like."""
    return sum(thread.name == NAME for thread in threading.enumerate())


def test_one_thread_calls_from_time_to_time_whatever_goes_wrong(
    make_loop: MakeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Exception | float] = [BackendUnavailable("down"), KeyError("bug"), 0.0]
    done = threading.Event()

    def step() -> float:
        if not outcomes:
            done.set()
            return NEVER_SECONDS
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    loop = make_loop(step)
    loop.start()
    loop.start()

    assert done.wait(DEADLINE_SECONDS)
    assert count_threads() == 1
    assert "KeyError" in caplog.text
    assert "down" not in caplog.text  # who raises it has logged it


def test_who_wakes_it_does_not_wait(make_loop: MakeLoop) -> None:
    calls: list[None] = []
    called = threading.Semaphore(0)

    def step() -> float:
        calls.append(None)
        called.release()
        return NEVER_SECONDS

    loop = make_loop(step, first_seconds=NEVER_SECONDS)
    for number in (1, 2):
        loop.wake()
        assert called.acquire(timeout=DEADLINE_SECONDS)
        assert len(calls) == number


def test_it_ends_with_the_call_that_it_makes_and_can_begin_anew(make_loop: MakeLoop) -> None:
    begun, may_end = threading.Semaphore(0), threading.Event()
    ended: list[None] = []

    def step() -> float:
        begun.release()
        may_end.wait(DEADLINE_SECONDS)
        ended.append(None)
        return 0.0

    loop = make_loop(step)
    loop.start()
    assert begun.acquire(timeout=DEADLINE_SECONDS)
    threading.Timer(0.05, may_end.set).start()
    loop.stop()
    assert ended
    calls = len(ended)
    loop.stop()
    assert count_threads() == 0
    assert len(ended) == calls

    while begun.acquire(blocking=False):
        pass
    loop.start()
    assert begun.acquire(timeout=DEADLINE_SECONDS)
