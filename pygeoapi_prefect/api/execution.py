"""Execution of processes (/req/core/process-execute-op)."""

import codecs
from typing import Any

from pydantic_core import from_json
from pygeoapi.api import API

from pygeoapi_prefect.api.answers import Answer
from pygeoapi_prefect.api.jobs import accepted_answer
from pygeoapi_prefect.api.problems import error_answer
from pygeoapi_prefect.api.request import Preferences, Request
from pygeoapi_prefect.api.results import result_answer
from pygeoapi_prefect.api.service import job_url, manager_of
from pygeoapi_prefect.errors import (
    InvalidRequest,
    ResultUnavailable,
    UnsupportedContentCoding,
    UnsupportedMediaType,
)
from pygeoapi_prefect.jobs import Job
from pygeoapi_prefect.manager import PREFERENCE_APPLIED
from pygeoapi_prefect.media_types import JSON_MEDIA_TYPE
from pygeoapi_prefect.schemas import RequestedProcessExecutionMode

_SUBSCRIBER_MEMBERS = ("successUri", "inProgressUri", "failedUri")


def execute(api: API, request: Request, process_id: str) -> Answer:
    """Execute a process, and return its result, or its job if that goes on.

    Raises:
        UnsupportedMediaType: The body is declared to be something else than JSON.
        UnsupportedContentCoding: It is compressed.
        UnknownProcess: There is no such process.
        InvalidRequest: The body is no execute request, or does not fit the process.
        ExecutionError: The job could not be made.
    """
    if not request.is_declared_as_json:
        raise UnsupportedMediaType(
            f"Content-Type: must be {JSON_MEDIA_TYPE}; with curl, add "
            f"-H 'Content-Type: {JSON_MEDIA_TYPE}'"
        )
    if codings := request.content_codings:
        raise UnsupportedContentCoding(
            f"Content-Encoding: {', '.join(sorted(codings))} is not understood; send the body as "
            "it is, without compression"
        )
    manager = manager_of(api)
    process = manager.process(process_id)
    preferences = request.preferences()
    job = manager.execute(
        process_id, parsed_request(request.data), _mode(preferences), preferences.wait_seconds
    )
    try:
        answer = result_answer if job.has_ended else accepted_answer
        headers, status, content = answer(api, request, job)
    except ResultUnavailable as error:
        headers, status, content = error_answer(api, request, error, job_url(api, job.job_id))
    longest_wait = manager.configuration.sync_job_execution_timeout_seconds
    applied = _applied(preferences, job, int(longest_wait) if process.can_wait else None)
    if of_result := headers.get(PREFERENCE_APPLIED):
        applied.append(of_result)
    if applied:
        headers[PREFERENCE_APPLIED] = ", ".join(applied)
    if job.has_ended and manager.configuration.sync_monitor_link:
        monitor = f'<{job_url(api, job.job_id)}>; rel="monitor"'
        earlier = headers.get("Link")
        headers["Link"] = f"{earlier}, {monitor}" if earlier else monitor
    return headers, status, content


def parsed_request(body: bytes) -> dict[str, Any]:
    """Return the members of ``execute.yaml`` that a body has.

    Raises:
        InvalidRequest: It is no JSON object, or has a `subscriber` that is none.
    """
    if not body:
        raise InvalidRequest("the body is empty: it must be an execute request as JSON, e.g. {}")
    try:
        # unlike `json`, it refuses NaN, lone surrogates and what is nested too deep; the mark
        # that some editors and shells begin text with may be ignored (RFC 8259, section 8.1)
        request = from_json(body.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise InvalidRequest("the body is nested too deeply") from error
        raise InvalidRequest(f"the body is no JSON: {error}") from error
    if not isinstance(request, dict):
        raise InvalidRequest("the body must be a JSON object")
    return {
        "inputs": request.get("inputs"),
        "outputs": request.get("outputs"),
        "response": request.get("response"),
        "subscriber": _subscriber(request.get("subscriber")),
    }


def _subscriber(subscriber: Any) -> dict[str, str] | None:
    if subscriber is None:
        return None
    if not isinstance(subscriber, dict) or not isinstance(subscriber.get("successUri"), str):
        raise InvalidRequest("subscriber: must be an object with a `successUri`")
    uris = {name: subscriber[name] for name in _SUBSCRIBER_MEMBERS if name in subscriber}
    for name, uri in uris.items():
        if not isinstance(uri, str):
            raise InvalidRequest(f"subscriber: {name} must be a URI")
    return uris


def _mode(preferences: Preferences) -> RequestedProcessExecutionMode | None:
    if preferences.respond_async:
        return RequestedProcessExecutionMode.respond_async
    return None if preferences.wait_seconds is None else RequestedProcessExecutionMode.wait


def _applied(preferences: Preferences, job: Job, longest_wait: int | None) -> list[str]:
    """Return how the job was waited for as the client prefers (RFC 7240, section 3).

    Args:
        preferences: What the client prefers.
        job: The job, as it was when the waiting was over.
        longest_wait: For how many seconds one can wait at most; None where one cannot.
    """
    applied = []
    if preferences.respond_async and not job.has_ended:
        applied.append("respond-async")
    if preferences.wait_seconds is not None and job.has_ended:
        applied.append(f"wait={preferences.wait_seconds}")
    elif preferences.wait_seconds is not None and longest_wait is not None:
        applied.append(f"wait={min(preferences.wait_seconds, longest_wait)}")
    return applied
