"""The list of processes, and their descriptions."""

import copy
import urllib.parse
from typing import Any

from pygeoapi import l10n
from pygeoapi.api import API

from pygeoapi_prefect.api.answers import (
    OGC_RELATIONS,
    Answer,
    document_links,
    json_answer,
    link,
    page_answer,
)
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.api.service import manager_of, page_links
from pygeoapi_prefect.errors import UnknownProcess
from pygeoapi_prefect.schemas import ProcessJobControlOption, ProcessOutputTransmissionMode


def get_processes(api: API, request: Request) -> Answer:
    """Return a page of process summaries (/req/core/process-list)."""
    limit = request.limit(api.config["server"].get("limits"))
    offset = request.offset()
    process_ids = list(manager_of(api).processes)
    document = {
        "processes": [
            _summary(_description(api, request, process_id))
            for process_id in process_ids[offset : offset + limit]
        ],
        "links": page_links(
            request,
            f"{api.base_url}/processes",
            offset=offset,
            prev_offset=max(0, offset - limit) if offset else None,
            next_offset=offset + limit if offset + limit < len(process_ids) else None,
        ),
    }
    if request.wants_html:
        return page_answer(api, request, "processes/index.html", document)
    return json_answer(api, request, document, locale=request.locale)


def get_process(api: API, request: Request, process_id: str) -> Answer:
    """Return the description of a process (/req/core/process).

    Raises:
        UnknownProcess: There is no such process.
    """
    manager_of(api).process(process_id)
    description = _description(api, request, process_id)
    if request.wants_html:
        resource = api.config["resources"].get(process_id) or {}
        return page_answer(
            api, request, "processes/process.html", description, resource.get("templates")
        )
    return json_answer(api, request, description, locale=request.locale)


def _description(api: API, request: Request, process_id: str) -> dict[str, Any]:
    manager = manager_of(api)
    try:
        metadata = manager.process(process_id).description
    except UnknownProcess:  # logged: an application has added one that cannot be loaded
        metadata = {"version": "0.0.0", "title": process_id, "jobControlOptions": []}
    description: dict[str, Any] = l10n.translate_struct(copy.deepcopy(metadata), request.locale)
    description["id"] = process_id
    description["jobControlOptions"] = _job_control_options(description["jobControlOptions"])
    description.setdefault(
        "outputTransmission", [mode.value for mode in ProcessOutputTransmissionMode]
    )
    quoted = urllib.parse.quote(process_id, safe="")
    url = f"{api.base_url}/processes/{quoted}"
    description["links"] = [
        *(description.get("links") or []),
        *document_links(request, url),
        link(f"{OGC_RELATIONS}/execute", f"{url}/execution", title="Execute this process"),
        link(f"{OGC_RELATIONS}/job-list", f"{api.base_url}/jobs?processID={quoted}", title="Jobs"),
    ]
    return description


def _job_control_options(offered: list[str]) -> list[str]:
    """Return the options of a description, and that its jobs can be dismissed, as they all can."""
    return [*dict.fromkeys([*offered, ProcessJobControlOption.DISMISS.value])]


def _summary(description: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in description.items()
        if name not in ("inputs", "outputs", "example")
    }
