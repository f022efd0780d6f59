"""When a worker that nobody hears of counts as gone."""

import pytest

from pygeoapi_prefect.worker.reaper import ABSENCE_SECONDS, Absences


@pytest.fixture
def absences() -> Absences:
    """Of a worker `far` that was found offline at 0."""
    absences = Absences()
    absences.lasts("far", 0)
    return absences


def test_a_worker_that_is_just_found_offline_may_come_back(absences: Absences) -> None:
    assert not absences.lasts("other", ABSENCE_SECONDS)
    assert not absences.lasts("far", ABSENCE_SECONDS - 1)


def test_a_worker_that_stays_offline_does_not(absences: Absences) -> None:
    absences.end(online={"near"})

    assert absences.lasts("far", ABSENCE_SECONDS)


def test_a_worker_that_was_online_in_between_may_come_back_again(absences: Absences) -> None:
    absences.end(online={"near", "far"})

    assert not absences.lasts("far", ABSENCE_SECONDS)


def test_an_outage_of_the_api_proves_nothing(absences: Absences) -> None:
    absences.forget()

    assert not absences.lasts("far", ABSENCE_SECONDS)
