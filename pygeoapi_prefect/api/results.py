"""Results of jobs, streamed from the result storage."""

import hashlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from pygeoapi.api import API
from werkzeug.http import parse_etags, parse_if_range_header, parse_range_header

from pygeoapi_prefect.api.answers import Answer, headers_of
from pygeoapi_prefect.api.job_pages import results_page
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.api.service import manager_of
from pygeoapi_prefect.jobs import Job
from pygeoapi_prefect.manager import PREFERENCE_APPLIED
from pygeoapi_prefect.results import Content, Response
from pygeoapi_prefect.schemas import (
    ProcessOutputTransmissionMode,
    ProcessResponseType,
    ReturnPreference,
)

_MODE_OF: Final = {
    ReturnPreference.minimal: ProcessOutputTransmissionMode.REFERENCE,
    ReturnPreference.representation: ProcessOutputTransmissionMode.VALUE,
}


def get_results(api: API, request: Request, job_id: str) -> Answer:
    """Return the result of a job, in the form that its request asked for (/req/core/job-results).

    Where that is several outputs beside each other, ``f=json`` gets them as one document.

    Raises:
        JobNotFound: There is no such job.
        ResultUnavailable: It has no result, not yet or not any more.
    """
    job = manager_of(api).gateway.find(job_id)
    several_as = ProcessResponseType.document if request.params.get("f") else None
    return result_answer(api, request, job, several_as)


def get_output(api: API, request: Request, job_id: str, output_id: str) -> Answer:
    """Return one output of a job, as it was stored (/req/core/job-result-op of version 2.0).

    Raises:
        JobNotFound: There is no such job.
        ResultUnavailable: It has no such output, not yet or not any more.
    """
    manager = manager_of(api)
    output = manager.output(manager.gateway.find(job_id), output_id)
    response = Response(media_type=output.media_type, segments=[output.content])
    return _sent(api, request, response, f"{job_id}/{output_id}")


def result_answer(
    api: API, request: Request, job: Job, several_as: ProcessResponseType | None = None
) -> Answer:
    """Return the result of a job: as a page, or by value or by link as the client prefers.

    Args:
        api: pygeoapi's API.
        request: The request.
        job: The job.
        several_as: See `PrefectManager.result`.

    Raises:
        ResultUnavailable: It has no result, not yet or not any more.
    """
    if request.wants_html:
        return results_page(api, request, job)
    preferred = request.preferences().returns
    response = manager_of(api).result(job, preferred, several_as)
    answer = _sent(api, request, response)
    if preferred is not None and response.transmission_modes <= {_MODE_OF[preferred]}:
        answer[0][PREFERENCE_APPLIED] = f"return={preferred}"
    return answer


def _sent(api: API, request: Request, response: Response, identity: str | None = None) -> Answer:
    """Return the answer that hands out a result (/req/core/process-execute-sync-...).

    Args:
        api: pygeoapi's API.
        request: The request.
        response: The result.
        identity: What tells the result from all others, if it is the same for ever.
    """
    headers = headers_of(api, request, response.media_type)
    del headers["Content-Language"]  # which is up to the process
    # what a process made is no page of this site
    headers["Content-Security-Policy"] = "sandbox"
    if response.links:
        headers["Link"] = ", ".join(link.as_link_header() for link in response.links)
        if not response.segments:
            return headers, HTTPStatus.NO_CONTENT, b""
    if (content := response.stored_content) is not None and request.method != "POST":
        return _stored_answer(request, content, headers, identity)
    headers["Content-Length"] = str(response.size)
    return headers, HTTPStatus.OK, response.chunks()


def _stored_answer(
    request: Request, content: Content, headers: dict[str, str], identity: str | None
) -> Answer:
    """Return a stored file, or the part of it that is asked for (RFC 9110, section 14)."""
    size = content.size
    headers["Accept-Ranges"] = "bytes"
    etag = None
    if identity is not None:
        etag = hashlib.sha256(f"{identity} {size}".encode()).hexdigest()[:32]
        headers["ETag"] = f'"{etag}"'
        if parse_etags(request.field("if-none-match")).contains_weak(etag):
            return headers, HTTPStatus.NOT_MODIFIED, b""
    start, stop, status = 0, size, HTTPStatus.OK
    if (asked := _asked_range(request, etag)) is not None:
        part = _part(asked, size)
        if part is None:
            headers["Content-Range"] = f"bytes */{size}"
            return headers, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b""
        start, stop = part
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    return headers, status, _read(content, start, stop)


def _read(content: Content, start: int, stop: int) -> Iterator[bytes]:
    yield from content.chunks(start, stop)


def _asked_range(request: Request, etag: str | None) -> tuple[int, int | None] | None:
    """Return the one range that a request is about; several, or none, are the whole."""
    if request.method != "GET":
        return None
    if (condition := request.field("if-range")) and (
        etag is None or parse_if_range_header(condition).etag != etag
    ):
        return None
    asked = parse_range_header(request.field("range"))
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    (one,) = asked.ranges
    return one


def _part(asked: tuple[int, int | None], size: int) -> tuple[int, int] | None:
    """Return which bytes of a file a range means; None if it has none of them."""
    start, stop = asked
    if start < 0:  # the last so many
        return (max(0, size + start), size) if size else None
    if start >= size:
        return None
    return start, size if stop is None else min(stop, size)
