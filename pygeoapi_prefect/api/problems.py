"""Errors as RFC 7807 problems (/rec/core/problem-details, ``exception.yaml``).

The one place where an error becomes a response. Media type and wording suit three kinds of
readers: clients of the standard, whose schemas know JSON; those that ask for
``application/problem+json``; and browsers.
"""

from http import HTTPStatus
from typing import Any, Final

from pygeoapi.api import API

from pygeoapi_prefect.api.answers import Answer, json_answer, page_answer
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.errors import InvalidRequest, PygeoapiPrefectError
from pygeoapi_prefect.media_types import JSON_MEDIA_TYPE

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 10
NO_TYPE: Final = "about:blank"
"""What RFC 7807 has for problems that their HTTP status says all about."""


def problem_of(error: PygeoapiPrefectError, instance: str) -> dict[str, Any]:
    """Return the problem that an error is.

    Args:
        error: The error.
        instance: What it happened to: address of a job, or path of a request.
    """
    problem = _problem(error.http_status_code, error.ogc_exception_code, error.detail, instance)
    if isinstance(error, InvalidRequest) and error.flaws:
        # by which forms find the inputs that it is about
        problem["errors"] = [
            {"pointer": _pointer(flaw.path), "detail": flaw.reason} for flaw in error.flaws
        ]
    return problem


def _pointer(path: tuple[str, ...]) -> str:
    """Return a path in a request as JSON pointer (RFC 6901)."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path)


def error_answer(
    api: API, request: Request, error: PygeoapiPrefectError, instance: str | None = None
) -> Answer:
    """Return the answer to a request that failed."""
    headers, status, content = _answer(api, request, problem_of(error, instance or request.path))
    return {**headers, **error.http_headers}, status, content


def status_answer(api: API, request: Request, status: HTTPStatus, detail: str) -> Answer:
    """Return the answer to a request that failed before or beside our functions."""
    return _answer(api, request, _problem(status, "NoApplicableCode", detail, request.path))


def _problem(status: HTTPStatus, code: str, detail: str, instance: str) -> dict[str, Any]:
    return {
        "type": code if "://" in code else NO_TYPE,
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "instance": instance,
        # what pygeoapi's own errors have
        "code": code.rpartition("/")[2],
        "description": detail,
    }


def _answer(api: API, request: Request, problem: dict[str, Any]) -> Answer:
    status = HTTPStatus(problem["status"])
    if request.wants_html:
        headers, _, content = page_answer(api, request, "exception.html", problem)
    else:
        wants_problem = PROBLEM_MEDIA_TYPE in request.accept.values()
        media_type = PROBLEM_MEDIA_TYPE if wants_problem else JSON_MEDIA_TYPE
        headers, _, content = json_answer(api, request, problem, status, media_type)
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return headers, status, content
