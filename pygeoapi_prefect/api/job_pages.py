"""What pages about jobs show beyond the status of a job."""

import datetime as dt
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from pygeoapi.api import API

from pygeoapi_prefect.api.answers import Answer, page_answer
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.api.service import manager_of
from pygeoapi_prefect.errors import (
    BackendUnavailable,
    PygeoapiPrefectError,
    StorageError,
    UnknownProcess,
)
from pygeoapi_prefect.jobs import Job, JobFilter, rfc3339
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.results import Output
from pygeoapi_prefect.schemas import JobStatus

SHOWN_INPUTS_MAX_BYTES: Final = 256 * 1024


def job_page(api: API, request: Request, job: Job, status: dict[str, Any]) -> Answer:
    """Return the page of a job.

    Args:
        api: pygeoapi's API.
        request: The request.
        job: The job.
        status: The same as ``statusInfo.yaml`` has it.
    """
    manager = manager_of(api)
    inputs = _inputs(manager, job)
    data = {
        # the names under which pygeoapi's template has it
        "jobs": {**status, "parameters": None if inputs is None else json.dumps(inputs)},
        "now": rfc3339(dt.datetime.now(dt.UTC)),
        "inputs": None if inputs is None else json.dumps(inputs, indent=2, ensure_ascii=False),
        "process_title": _process_title(manager, job.process_id),
        "has_ended": job.has_ended,
        "prefect_run_url": _prefect_run_url(manager, job),
        **_outputs(manager, job),
    }
    return page_answer(api, request, "jobs/job.html", data)


def results_page(api: API, request: Request, job: Job) -> Answer:
    """Return the page with the results of a job.

    Raises:
        ResultUnavailable: It has none, not yet or not any more.
    """
    manager = manager_of(api)
    data = {
        # as pygeoapi's template has it
        "job": {"id": job.job_id},
        "job_url": f"jobs/{urllib.parse.quote(job.job_id, safe='')}",
        "process_id": job.process_id,
        "process_title": _process_title(manager, job.process_id),
        "outputs": _described(manager, job, manager.outputs(job)),
    }
    return page_answer(api, request, "jobs/results/index.html", data)


def job_list_page(
    api: API, request: Request, document: dict[str, Any], job_filter: JobFilter, limit: int
) -> Answer:
    """Return the page of a list of jobs.

    Args:
        api: pygeoapi's API.
        request: The request.
        document: The list as ``jobList.yaml`` has it.
        job_filter: Which jobs it has.
        limit: How many at most.
    """
    manager = manager_of(api)
    offset = request.offset()
    data = {
        # the names under which pygeoapi's template has it
        "jobs": document,
        "links": document["links"],
        "offset": offset,
        "now": rfc3339(dt.datetime.now(dt.UTC)),
        "limit": limit,
        "processes": {
            process_id: _process_title(manager, process_id) for process_id in manager.processes
        },
        "statuses": [status.value for status in JobStatus],
        "filter": {
            "process_ids": sorted(job_filter.process_ids or ()),
            "statuses": sorted(job_filter.statuses or ()),
            "datetime": request.params.get("datetime") or "",
            "min_duration": ",".join(request.strings("minDuration")),
            "max_duration": ",".join(request.strings("maxDuration")),
            "is_set": job_filter != JobFilter(),
        },
    }
    return page_answer(api, request, "jobs/index.html", data)


def _inputs(manager: PrefectManager, job: Job) -> Mapping[str, Any] | None:
    try:
        return manager.inputs(job, SHOWN_INPUTS_MAX_BYTES)
    except StorageError:
        return None  # the rest of the page does not need the result storage


def _outputs(manager: PrefectManager, job: Job) -> dict[str, Any]:
    """Return the outputs of a job that has them, or why they cannot be shown."""
    if job.status is not JobStatus.successful:
        return {"outputs": [], "outputs_problem": None}
    try:
        outputs = _described(manager, job, manager.outputs(job))
    except PygeoapiPrefectError as error:
        return {"outputs": [], "outputs_problem": error.detail}
    return {"outputs": outputs, "outputs_problem": None}


def _described(
    manager: PrefectManager, job: Job, outputs: dict[str, Output]
) -> list[dict[str, Any]]:
    declared = _description(manager, job.process_id).get("outputs") or {}
    return [
        {
            "id": output_id,
            "title": _text((declared.get(output_id) or {}).get("title")) or output_id,
            "media_type": output.media_type,
            "size": output.content.size,
            "href": f"jobs/{urllib.parse.quote(job.job_id, safe='')}"
            f"/results/{urllib.parse.quote(output_id, safe='')}",
        }
        for output_id, output in outputs.items()
    ]


def _process_title(manager: PrefectManager, process_id: str) -> str:
    return _text(_description(manager, process_id).get("title")) or process_id


def _description(manager: PrefectManager, process_id: str) -> Mapping[str, Any]:
    try:
        return manager.process(process_id).description
    except (UnknownProcess, BackendUnavailable):
        return {}  # its jobs outlive a process, and are there before it is discovered


def _text(text: Any) -> str:
    """Return a text of a description, in its first language where it has several."""
    if isinstance(text, dict):
        text = next(iter(text.values()), None)
    return str(text or "")


def _prefect_run_url(manager: PrefectManager, job: Job) -> str | None:
    address = manager.configuration.prefect_ui_url
    return None if address is None else f"{address.rstrip('/')}/runs/flow-run/{job.flow_run_id}"
