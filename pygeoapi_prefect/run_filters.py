"""Which flow runs are jobs of a list, in the words of the Prefect API. Pure."""

import datetime as dt
from typing import Any, Final

from prefect.client.schemas.filters import FlowRunFilter

from pygeoapi_prefect.jobs import (
    JOB_TAG,
    RESTART_STATE_NAMES,
    JobFilter,
    process_tag,
    states_of,
)
from pygeoapi_prefect.schemas import JobStatus

SCHEDULED_AHEAD: Final = dt.timedelta(minutes=1)
"""Before it is due, a run of a schedule is a job of lists: the Prefect server's clock may be
ahead of ours, and no job that a client has just made may be missing."""


def run_filter_of(job_filter: JobFilter, now: dt.datetime) -> FlowRunFilter:
    """Return a filter of the Prefect API for all criteria; that for duration is too wide."""
    criteria: dict[str, Any] = {
        "tags": {"all_": [JOB_TAG]},
        # a flow's sub-flows inherit its tags, but are no jobs
        "parent_task_run_id": {"is_null_": True},
    }
    if job_filter.process_ids is not None:
        criteria["tags"]["any_"] = [process_tag(one) for one in sorted(job_filter.process_ids)]
    # schedules make runs days before they are due, and make them anew with every deployment
    latest = now + SCHEDULED_AHEAD
    criteria["expected_start_time"] = {
        "after_": job_filter.created_from,
        "before_": min(job_filter.created_until or latest, latest),
    }
    if job_filter.statuses is not None:
        criteria["state"] = _state_criteria(job_filter.statuses)
    if job_filter.has_duration:
        criteria["start_time"] = _start_time_criteria(job_filter, now)
    return FlowRunFilter.model_validate(criteria)


def _state_criteria(statuses: frozenset[JobStatus]) -> dict[str, Any]:
    """Return which states have some statuses, as `jobs.job_of_run` reads them."""
    types = {"any_": states_of(statuses)}
    is_running_wanted = JobStatus.running in statuses
    if is_running_wanted is (JobStatus.accepted in statuses):
        return {"type": types}
    # a run that started is scheduled again while it waits to go on
    if is_running_wanted:
        return {"operator": "or_", "type": types, "name": {"any_": RESTART_STATE_NAMES}}
    return {"type": types, "name": {"not_any_": RESTART_STATE_NAMES}}


def _start_time_criteria(job_filter: JobFilter, now: dt.datetime) -> dict[str, Any]:
    """Return between which times jobs of the right duration have started."""
    criteria: dict[str, Any] = {"is_null_": False}
    if job_filter.min_duration_seconds is not None:
        criteria["before_"] = now - dt.timedelta(seconds=job_filter.min_duration_seconds)
    is_about_running = job_filter.statuses == frozenset({JobStatus.running})
    if is_about_running and job_filter.max_duration_seconds is not None:
        criteria["after_"] = now - dt.timedelta(seconds=job_filter.max_duration_seconds)
    return criteria
