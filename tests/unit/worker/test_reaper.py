"""When a worker that nobody hears of counts as gone."""

import uuid

import pytest
from prefect.client.schemas.objects import Worker, WorkerStatus
from prefect.settings import PREFECT_WORKER_HEARTBEAT_SECONDS, temporary_settings

from pygeoapi_prefect.worker.reaper import Absences, heartbeat_seconds, online_workers

HEARTBEAT_SECONDS = 30
ABSENCE_SECONDS = 45


def worker(name: str, interval: int | None, status: WorkerStatus = WorkerStatus.ONLINE) -> Worker:
    return Worker(
        name=name,
        work_pool_id=uuid.uuid4(),
        heartbeat_interval_seconds=interval,
        status=status,
    )


def lasts(absences: Absences, worker: str, now: float) -> bool:
    return absences.lasts(worker, HEARTBEAT_SECONDS, now)


@pytest.fixture
def absences() -> Absences:
    """Of a worker `far` that was found offline at 0."""
    absences = Absences()
    lasts(absences, "far", 0)
    return absences


def test_a_worker_that_is_just_found_offline_may_come_back(absences: Absences) -> None:
    assert not lasts(absences, "other", ABSENCE_SECONDS)
    assert not lasts(absences, "far", ABSENCE_SECONDS - 1)


def test_a_worker_that_stays_offline_does_not(absences: Absences) -> None:
    absences.end(online={"near"})

    assert lasts(absences, "far", ABSENCE_SECONDS)


def test_a_worker_that_was_online_in_between_may_come_back_again(absences: Absences) -> None:
    absences.end(online={"near", "far"})

    assert not lasts(absences, "far", ABSENCE_SECONDS)


def test_an_outage_of_the_api_proves_nothing(absences: Absences) -> None:
    absences.forget()

    assert not lasts(absences, "far", ABSENCE_SECONDS)


@pytest.mark.parametrize(("interval", "seconds"), [(4, 6), (60, 90)])
def test_each_worker_gets_the_time_to_report_itself(
    absences: Absences, interval: int, seconds: float
) -> None:
    assert not absences.lasts("far", interval, seconds - 1)
    assert absences.lasts("far", interval, seconds)


def test_a_worker_reports_itself_as_often_as_it_says_or_else_as_this_one_does() -> None:
    with temporary_settings({PREFECT_WORKER_HEARTBEAT_SECONDS: 7}):
        assert heartbeat_seconds(worker("far", 60)) == 60
        assert heartbeat_seconds(worker("far", None)) == 7
        assert heartbeat_seconds(None) == 7


def test_workers_are_online_that_prefect_says_are() -> None:
    workers = [worker("near", 30), worker("far", 30, WorkerStatus.OFFLINE)]

    assert online_workers({one.name: one for one in workers}) == {"near"}
