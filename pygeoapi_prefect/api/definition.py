"""The definition of the API, with the processes that there are when it is asked for."""

import contextlib
import copy
from collections.abc import Mapping
from typing import Any, Final

from pygeoapi.api import API, openapi_

from pygeoapi_prefect.api.answers import Answer, document_links, page_answer
from pygeoapi_prefect.api.openapi import is_complete, with_processes
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.api.service import manager_of
from pygeoapi_prefect.errors import UnknownProcess
from pygeoapi_prefect.manager import PrefectManager

REDOC: Final = "redoc"


def get_openapi(api: API, request: Request) -> Answer:
    """Return the OpenAPI document, or a page that shows it (/req/oas30/...).

    The page is ours, which needs no other server; with ``ui=redoc`` it is pygeoapi's.
    """
    if request.wants_html and request.params.get("ui") != REDOC:
        links = document_links(request, f"{api.base_url}/openapi")
        return page_answer(api, request, "openapi/swagger.html", {"links": links})
    if is_complete(api.openapi):
        api = copy.copy(api)
        api.openapi = with_processes(api.openapi, _descriptions(manager_of(api)))
    answer: Answer = openapi_(api, request)
    return answer


def _descriptions(manager: PrefectManager) -> Mapping[str, Mapping[str, Any]]:
    descriptions = {}
    for process_id in manager.processes:
        with contextlib.suppress(UnknownProcess):  # gone meanwhile, or added by an application
            descriptions[process_id] = manager.process(process_id).description
    return descriptions
