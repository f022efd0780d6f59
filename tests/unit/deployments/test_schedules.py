"""From the configuration of schedules to those of the Prefect API."""

import datetime as dt
import json
import uuid
from typing import Any

import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

from pygeoapi_prefect.config import ManagerConfiguration
from pygeoapi_prefect.deployments.schedules import plan_jobs, schedules_of
from pygeoapi_prefect.errors import ConfigurationError
from pygeoapi_prefect.processes import Process, load_process
from pygeoapi_prefect.wishes import REQUEST_MEMBER, Wishes

MANAGER = ManagerConfiguration(name="PrefectManager", result_storage="memory://results")
ADA = {"name": "Ada"}


def process(*schedules: dict[str, Any]) -> Process:
    deployment = {"schedules": [{"inputs": ADA, **schedule} for schedule in schedules]}
    processor = {"name": "HelloWorld", "prefect": {"deployment": deployment}}
    return load_process("hello", {"processor": processor}, MANAGER)


def made(*schedules: dict[str, Any], existing: Any = ()) -> list[DeploymentScheduleCreate]:
    configured = process(*schedules)
    return schedules_of(configured, plan_jobs(configured), existing)


def on_the_server(schedule: DeploymentScheduleCreate, **changes: Any) -> DeploymentSchedule:
    return DeploymentSchedule.model_validate(
        {**schedule.model_dump(), "deployment_id": uuid.uuid4(), **changes}
    )


def test_each_kind_becomes_that_of_prefect() -> None:
    cron, interval, rrule = made(
        {"cron": "0 6 * * 1-5", "timezone": "Europe/Zurich"},
        {"interval": "PT6H"},
        {"rrule": "FREQ=MONTHLY;BYDAY=-1FR", "timezone": "Asia/Tokyo"},
    )
    assert cron.schedule == CronSchedule(cron="0 6 * * 1-5", timezone="Europe/Zurich")
    assert isinstance(rrule.schedule, RRuleSchedule)
    assert rrule.schedule.timezone == "Asia/Tokyo"
    assert isinstance(interval.schedule, IntervalSchedule)
    assert interval.schedule.interval == dt.timedelta(hours=6)


@pytest.mark.parametrize(
    ("anchor", "expected"),
    [
        ({}, "2019-12-31T23:00:00Z"),
        ({"anchor_date": "2024-06-01T12:00:00"}, "2024-06-01T10:00:00Z"),
        ({"anchor_date": "2024-06-01T12:00:00Z"}, "2024-06-01T12:00:00Z"),
    ],
)
def test_an_interval_counts_from_a_time_that_stays(anchor: dict[str, str], expected: str) -> None:
    (schedule,) = made({"interval": 86_400, "timezone": "Europe/Zurich", **anchor})
    assert isinstance(schedule.schedule, IntervalSchedule)
    assert schedule.schedule.anchor_date == dt.datetime.fromisoformat(expected)
    assert schedule.schedule.timezone == "Europe/Zurich"


def test_the_execute_request_travels_as_text() -> None:
    (schedule,) = made({"cron": "@daily", "response": "document", "outputs": {"echo": {}}})
    assert schedule.parameters.keys() == {"execution_request"}
    request = json.loads(schedule.parameters["execution_request"])
    assert Wishes.of_request(request) == Wishes.of_request({"outputs": {"echo": {}}})
    assert {name: value for name, value in request.items() if name != REQUEST_MEMBER} == {
        "inputs": ADA,
        "outputs": {"echo": {}},
        "response": "document",
        "subscriber": None,
    }


def test_what_says_the_same_is_the_same_and_what_does_not_is_another() -> None:
    first, second = (made({"cron": "@daily"})[0] for _ in range(2))
    (third,) = made({"cron": "@daily", "inputs": {"name": "Bo"}})
    assert first == second
    assert first.slug != third.slug


@pytest.mark.parametrize(("configured", "expected"), [(None, False), (True, True)])
def test_a_schedule_stays_paused_unless_the_configuration_says_otherwise(
    configured: bool | None, expected: bool
) -> None:
    (first,) = made({"cron": "@daily"})
    paused = on_the_server(first, active=False)
    (again,) = made({"cron": "@daily", "active": configured}, existing=[paused])
    assert (first.active, again.active) == (True, expected)


def test_schedules_of_others_stay_and_ours_that_are_not_configured_go() -> None:
    (ours,) = made({"cron": "@daily"})
    theirs = on_the_server(ours, slug=None, parameters={"execution_request": "{}"})
    left = made(existing=[on_the_server(ours), theirs])
    assert [(one.slug, one.parameters) for one in left] == [(None, theirs.parameters)]


@pytest.mark.parametrize(
    ("schedules", "reason"),
    [
        ([{"cron": "at noon"}], "schedules.0: Invalid cron string"),
        ([{"cron": "@daily"}, {"rrule": "FREQ=SOMETIMES"}], "schedules.1: Invalid RRule string"),
        ([{"cron": "@daily"}, {"cron": "@daily"}], "schedules.1: is there twice"),
        ([{"cron": "@daily", "inputs": {"nam": "Ada"}}], "schedules.0: .*unknown input 'nam'"),
        ([{"cron": "@daily", "outputs": {"ech": {}}}], "schedules.0: .*ech"),
    ],
)
def test_what_cannot_run_is_refused(schedules: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        made(*schedules)
