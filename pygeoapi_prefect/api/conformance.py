"""What this service conforms to (/req/core/conformance-op)."""

import json
from typing import Final

from pygeoapi.api import API, conformance

from pygeoapi_prefect.api.answers import Answer, json_answer, page_answer
from pygeoapi_prefect.api.request import Request

_PROCESSES: Final = "http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf"

CONFORMANCE_CLASSES: Final = (
    f"{_PROCESSES}/core",
    f"{_PROCESSES}/ogc-process-description",
    f"{_PROCESSES}/json",
    f"{_PROCESSES}/html",
    f"{_PROCESSES}/oas30",
    f"{_PROCESSES}/job-list",
    f"{_PROCESSES}/callback",
    f"{_PROCESSES}/dismiss",
)
"""The classes of OGC API - Processes that hold, and no others."""


def get_conformance(api: API, request: Request) -> Answer:
    """Return the conformance classes of pygeoapi and of this package."""
    # pygeoapi has no function for the list alone
    _, _, content = conformance(api, request.as_json())
    others = [one for one in json.loads(content)["conformsTo"] if "/ogcapi-processes-1/" not in one]
    document = {"conformsTo": sorted({*others, *CONFORMANCE_CLASSES})}
    if request.wants_html:
        return page_answer(api, request, "conformance.html", document)
    return json_answer(api, request, document)
