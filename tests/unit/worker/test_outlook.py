"""What a worker expects to become due, and when it asks again."""

import time
from uuid import UUID, uuid4

import pytest

from pygeoapi_prefect.worker.outlook import KEPT_BACK_SECONDS, LOOK_AFTER_SECONDS, Outlook


@pytest.fixture
def outlook() -> Outlook:
    outlook = Outlook()
    outlook.be_certain(time.monotonic() + 60, asked_at=time.monotonic())
    return outlook


def announce(outlook: Outlook, count: int = 1) -> list[UUID]:
    run_ids = [uuid4() for _ in range(count)]
    for run_id in run_ids:
        outlook.announce(run_id)
    return run_ids


def test_certainty_ends() -> None:
    outlook = Outlook()
    assert outlook.certain_seconds == 0
    outlook.be_certain(time.monotonic() + 60, asked_at=time.monotonic())
    assert 0 < outlook.certain_seconds <= 60
    outlook.doubt()
    assert outlook.certain_seconds == 0


def test_a_doubt_outlasts_an_answer_to_what_was_asked_before(outlook: Outlook) -> None:
    asked_at = time.monotonic()
    outlook.doubt()
    outlook.be_certain(asked_at + 60, asked_at=asked_at)
    assert outlook.certain_seconds == 0


def test_it_is_asked_again_when_the_next_run_is_to_start(outlook: Outlook) -> None:
    outlook.ask()
    assert outlook.pause(5) == 5
    outlook.note_next_start(time.monotonic() + 60)
    assert 0 < outlook.pause(90) <= 60
    # what is past was asked for
    outlook.note_next_start(time.monotonic() - 2)
    assert outlook.pause(5) == 5


def test_it_is_asked_at_once_when_something_happens(outlook: Outlook) -> None:
    outlook.ask()
    outlook.expect_work()
    assert outlook.pause(5) == 0


def test_only_runs_that_were_kept_back_are_not_asked_about(outlook: Outlook) -> None:
    known, new = uuid4(), uuid4()
    outlook.keep_back([known], asked_at=time.monotonic())
    assert outlook.are_kept_back([known])
    assert not outlook.are_kept_back([known, new])
    outlook.keep_back([known], asked_at=time.monotonic() - KEPT_BACK_SECONDS)
    assert not outlook.are_kept_back([known])


def test_an_announcement_that_comes_twice_counts_once(outlook: Outlook) -> None:
    (run_id,) = announce(outlook)
    outlook.announce(run_id)
    outlook.forget(run_id)
    assert not outlook.expects(run_id)


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_for_an_announced_run_it_is_asked_though_nothing_else_happens(
    outlook: Outlook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.worker.outlook.time", Clock())
    outlook.ask()
    announce(outlook)
    assert outlook.pause(5) == pytest.approx(LOOK_AFTER_SECONDS[0])
    assert outlook.work_is_likely


def test_a_run_that_does_not_come_is_looked_for_ever_more_rarely_and_given_up(
    outlook: Outlook, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("pygeoapi_prefect.worker.outlook.time", clock)
    outlook.be_certain(clock.now + 60, asked_at=clock.now)
    (run_id,) = announce(outlook)
    pauses: list[float] = []

    while (pause := outlook.look_again_seconds()) is not None:
        pauses.append(pause)
        clock.now += pause

    assert pauses == pytest.approx([0.005, 0.02, 0.05, 0.2, 1.0, 0.0])
    assert not outlook.expects(run_id)
    # it may have to wait for its time
    assert outlook.certain_seconds == 0


def test_of_several_runs_each_has_its_own_time(
    outlook: Outlook, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("pygeoapi_prefect.worker.outlook.time", clock)
    announce(outlook)
    clock.now += 1
    (late,) = announce(outlook)
    assert outlook.look_again_seconds() == pytest.approx(LOOK_AFTER_SECONDS[0])
    outlook.forget(late)
    assert outlook.look_again_seconds() == pytest.approx(LOOK_AFTER_SECONDS[-1] - 1)


def test_a_run_that_has_come_is_not_looked_for(outlook: Outlook) -> None:
    (run_id,) = announce(outlook)
    outlook.forget(run_id)
    assert outlook.look_again_seconds() is None
    assert outlook.certain_seconds > 0
