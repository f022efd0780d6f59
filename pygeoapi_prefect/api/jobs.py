"""Jobs: their status, the list of them, and their end."""

import dataclasses
from http import HTTPStatus
from typing import Any, Final

from pygeoapi.api import API
from pygeoapi.formats import F_HTML

from pygeoapi_prefect.api.answers import (
    HTML_MEDIA_TYPE,
    OGC_RELATIONS,
    Answer,
    document_links,
    json_answer,
    link,
)
from pygeoapi_prefect.api.job_pages import job_list_page, job_page
from pygeoapi_prefect.api.problems import problem_of
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.api.service import job_url, logs_url, manager_of, page_links
from pygeoapi_prefect.config import LogPublication
from pygeoapi_prefect.jobs import JOB_TYPE, Job, JobFilter, status_document
from pygeoapi_prefect.manager import failure_of
from pygeoapi_prefect.schemas import JobStatus

QUERY_PARAMETERS: Final = (
    *("type", "processID", "status", "datetime", "minDuration", "maxDuration"),
    *("limit", "offset"),
)
"""Those of the list."""


def get_job(api: API, request: Request, job_id: str) -> Answer:
    """Return the status of a job (/req/core/job).

    Raises:
        JobNotFound: There is no such job.
    """
    job = manager_of(api).gateway.look(job_id)
    status = status_info(api, job)
    if request.wants_html:
        return job_page(api, request, job, status)
    others = [one for one in status["links"] if one["rel"] != "alternate"]
    status["links"] = [*document_links(request, job_url(api, job_id)), *others]
    return json_answer(api, request, status)


def get_jobs(api: API, request: Request) -> Answer:
    """Return a page of the list of jobs, newest first (/req/job-list/job-list-op).

    Raises:
        InvalidParameter: A query parameter has no value that it can have.
    """
    limit = request.limit(api.config["server"].get("limits"))
    offset = request.offset()
    job_filter = job_filter_of(request)
    request.one_of_each("type", [JOB_TYPE])  # which is what all jobs are
    page = manager_of(api).gateway.page(job_filter, limit=limit, offset=offset)
    document: dict[str, Any] = {
        "jobs": [status_info(api, job) for job in page.jobs],
        "links": page_links(
            request,
            f"{api.base_url}/jobs",
            offset=offset,
            # with durations, `offset` counts jobs that were looked at, not those that were found
            prev_offset=max(0, offset - limit) if offset and not job_filter.has_duration else None,
            next_offset=page.next_offset,
        ),
        "numberReturned": len(page.jobs),
    }
    if page.number_matched is not None:
        document["numberMatched"] = page.number_matched
    if request.wants_html:
        return job_list_page(api, request, document, job_filter, limit)
    return json_answer(api, request, document)


def delete_job(api: API, request: Request, job_id: str) -> Answer:
    """Dismiss a job that has not ended, remove one that has (/req/dismiss/job-dismiss-op).

    Source for the difference: version 2.0, /req/dismiss/job-dismiss-status. One that has ended
    while it was being dismissed is answered as it is, and stays.

    Raises:
        JobNotFound: There is no such job.
    """
    dismissal = manager_of(api).dismiss(job_id)
    job = dismissal.job
    if dismissal.is_removed:
        job = dataclasses.replace(
            job, status=JobStatus.dismissed, message="Job and its results removed"
        )
    status = status_info(api, job)
    if dismissal.is_removed:
        status["links"] = [one for one in status["links"] if one["rel"] == "up"]
    if request.wants_html:
        return job_page(api, request, job, status)
    return json_answer(api, request, status)


def status_info(api: API, job: Job) -> dict[str, Any]:
    """Return the status of a job (``statusInfo.yaml``), with what version 2.0 adds."""
    status = {**status_document(job), "links": _links(api, job)}
    if job.status is JobStatus.failed and (failure := failure_of(job)):
        status["exception"] = problem_of(failure, job_url(api, job.job_id))
    return status


def accepted_answer(api: API, request: Request, job: Job) -> Answer:
    """Return the answer for a job that goes on (/req/core/process-execute-success-async)."""
    headers, status, content = json_answer(api, request, status_info(api, job), HTTPStatus.CREATED)
    headers["Location"] = job_url(api, job.job_id)
    return headers, status, content


def job_filter_of(request: Request) -> JobFilter:
    """Return which jobs a request asks for (/req/job-list/...-definition).

    Raises:
        InvalidParameter: A parameter has no value that it can have.
    """
    process_ids = request.strings("processID")
    statuses = request.one_of_each("status", JobStatus)
    created_from, created_until = request.interval("datetime")
    return JobFilter(
        process_ids=frozenset(process_ids) if process_ids else None,
        statuses=frozenset(map(JobStatus, statuses)) if statuses else None,
        created_from=created_from,
        created_until=created_until,
        # a job that is as long as any of several is as long as the least of them
        min_duration_seconds=min(request.durations("minDuration"), default=None),
        max_duration_seconds=max(request.durations("maxDuration"), default=None),
    )


def _links(api: API, job: Job) -> list[dict[str, str]]:
    url = job_url(api, job.job_id)
    links = [
        link("monitor", url, title="Status of the job"),
        link(
            "alternate",
            f"{url}?f={F_HTML}",
            media_type=HTML_MEDIA_TYPE,
            title="Status of the job as HTML",
        ),
        link("up", f"{api.base_url}/jobs", title="All jobs"),
    ]
    if manager_of(api).configuration.publish_logs is not LogPublication.NONE:
        links.append(
            link(f"{OGC_RELATIONS}/log", logs_url(api, job.job_id), title="Log of the job")
        )
    if job.status is JobStatus.successful:
        links.append(
            link(
                f"{OGC_RELATIONS}/results",
                f"{url}/results",
                media_type=job.result_media_type,
                title="Results of the job",
            )
        )
    return links
