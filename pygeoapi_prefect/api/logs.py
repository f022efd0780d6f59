"""Logs of jobs: what their flows and tasks wrote while they ran."""

import urllib.parse
from http import HTTPStatus
from typing import Any, Final

from pygeoapi.api import API

from pygeoapi_prefect.api.answers import (
    Answer,
    document_links,
    headers_of,
    json_answer,
    link,
    page_answer,
)
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.api.service import job_url, logs_url, manager_of
from pygeoapi_prefect.jobs import rfc3339
from pygeoapi_prefect.logs import PAGE_MAX_LINES, LogLine, LogPosition

QUERY_PARAMETERS: Final = ("after", "limit")
LIMIT_DEFAULT: Final = 100
TEXT_MEDIA_TYPE: Final = "text/plain; charset=utf-8"


def get_logs(api: API, request: Request, job_id: str) -> Answer:
    """Return a page of the log of a job, oldest lines first.

    Clients that accept ``text/plain`` best get that, browsers a page, all others JSON.
    Following the `next` link follows the job; there is none once nothing can come any more.
    Lines of the last seconds are in the next page again, and have the same ``id``.

    Raises:
        LogNotPublished: Clients see no logs on this server.
        JobNotFound: There is no such job.
        InvalidParameter: ``after`` comes from no page of a log.
    """
    position = LogPosition.parse(request.params.get("after"))
    limit = request.integer("limit", LIMIT_DEFAULT, minimum=1, maximum=PAGE_MAX_LINES)
    page = manager_of(api).log(job_id, position, limit)
    url = logs_url(api, job_id)
    next_url = None
    if page.following is not None:
        query = urllib.parse.urlencode({"after": str(page.following), "limit": limit})
        next_url = f"{url}?{query}"
    if not request.params.get("f") and _accepts_text_best(request):
        headers = headers_of(api, request, TEXT_MEDIA_TYPE)
        if next_url is not None:
            headers["Link"] = f'<{next_url}>; rel="next"'
        return headers, HTTPStatus.OK, "".join(map(_text, page.lines))
    links = [
        *document_links(request, url, urllib.parse.urlencode({"after": position, "limit": limit})),
        link("up", job_url(api, job_id), title="Status of the job"),
    ]
    if next_url is not None:
        links.append(link("next", next_url, title="What comes after"))
    document = {
        "jobID": job_id,
        "logs": [_json(line) for line in page.lines],
        "hasMore": page.has_more,
        "complete": page.following is None,
        "links": links,
    }
    if request.wants_html:
        return page_answer(api, request, "jobs/logs.html", document)
    return json_answer(api, request, document)


def _accepts_text_best(request: Request) -> bool:
    return request.accept.best_match(["application/json", "text/plain"]) == "text/plain"


def _json(line: LogLine) -> dict[str, Any]:
    document = {
        "id": line.line_id,
        "timestamp": rfc3339(line.time),
        "level": line.level_name,
        "message": line.message,
    }
    return document if line.task is None else {**document, "task": line.task}


def _text(line: LogLine) -> str:
    task = "" if line.task is None else f"{line.task}: "
    return f"{rfc3339(line.time)} {line.level_name:<8} {task}{line.message}\n"
