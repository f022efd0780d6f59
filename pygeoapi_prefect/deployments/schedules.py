"""Schedules of a process, as its deployment on the Prefect server has them.

Ours have a slug that is made of what they say, so that one which has changed is another
one. Schedules with other slugs are somebody else's, and stay.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Final
from zoneinfo import ZoneInfo

import pydantic
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import (
    SCHEDULE_TYPES,
    CronSchedule,
    IntervalSchedule,
    RRuleSchedule,
)

from pygeoapi_prefect import execution
from pygeoapi_prefect.config import ScheduleConfiguration
from pygeoapi_prefect.errors import ConfigurationError, InvalidRequest
from pygeoapi_prefect.execution import Plan
from pygeoapi_prefect.processes import Process

SLUG_PREFIX: Final = "pygeoapi-"
FIRST_MIDNIGHT: Final = dt.datetime(2020, 1, 1)


def plan_jobs(process: Process) -> list[Plan]:
    """Return the checked execute requests of the schedules of a process, in their order.

    Raises:
        ConfigurationError: One does not fit the description of the process.
    """
    plans = []
    for position, schedule in enumerate(process.configuration.deployment.schedules):
        request = {
            "inputs": schedule.inputs,
            "outputs": schedule.outputs,
            "response": schedule.response.value,
        }
        try:
            plans.append(execution.plan(process.process_id, process.description, request, None))
        except InvalidRequest as error:
            raise ConfigurationError(f"schedules.{position}: {error.detail}") from error
    return plans


def schedules_of(
    process: Process, plans: Iterable[Plan], existing: Sequence[DeploymentSchedule]
) -> list[DeploymentScheduleCreate]:
    """Return the schedules that the deployment of a process should have.

    Args:
        process: The process.
        plans: What `plan_jobs` returned.
        existing: The schedules that its deployment has now.

    Raises:
        ConfigurationError: A schedule means no times, or is there twice.
    """
    schedules = [
        DeploymentScheduleCreate(
            schedule=schedule.schedule,
            active=schedule.active,
            parameters=schedule.parameters,
            slug=schedule.slug,
        )
        for schedule in existing
        if not _is_ours(schedule)
    ]
    is_active = {schedule.slug: schedule.active for schedule in existing}
    configured = process.configuration.deployment.schedules
    for position, (schedule, plan) in enumerate(zip(configured, plans, strict=True)):
        slug = _slug(schedule)
        if slug in (other.slug for other in schedules):
            raise ConfigurationError(f"schedules.{position}: is there twice")
        try:
            times = _times(schedule)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigurationError(f"schedules.{position}: {problem}") from error
        schedules.append(
            DeploymentScheduleCreate(
                schedule=times,
                active=is_active.get(slug, True) if schedule.active is None else schedule.active,
                parameters={"execution_request": plan.request_text},
                slug=slug,
            )
        )
    return schedules


def _is_ours(schedule: DeploymentSchedule) -> bool:
    return (schedule.slug or "").startswith(SLUG_PREFIX)


def _slug(schedule: ScheduleConfiguration) -> str:
    said = json.dumps(schedule.model_dump(mode="json", exclude={"active"}), sort_keys=True)
    return f"{SLUG_PREFIX}{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def _times(schedule: ScheduleConfiguration) -> SCHEDULE_TYPES:
    if schedule.cron is not None:
        return CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    if schedule.rrule is not None:
        return RRuleSchedule(rrule=schedule.rrule, timezone=schedule.timezone)
    assert schedule.interval is not None  # noqa: S101  it has one of the three
    # without an anchor, Prefect would take the moment at which this runs
    anchor = schedule.anchor_date or FIRST_MIDNIGHT
    if anchor.tzinfo is None:
        anchor = anchor.replace(tzinfo=ZoneInfo(schedule.timezone))
    return IntervalSchedule(
        interval=schedule.interval, anchor_date=anchor, timezone=schedule.timezone
    )
