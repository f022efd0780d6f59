"""The definition of the API, with the processes that there are when it is asked for."""

import contextlib
from collections.abc import Mapping
from typing import Any, Final

from pygeoapi.api import API, openapi_

from pygeoapi_prefect.api.answers import Answer, document_links, json_answer, page_answer
from pygeoapi_prefect.api.openapi import is_complete, with_processes
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.api.service import manager_of
from pygeoapi_prefect.errors import UnknownProcess
from pygeoapi_prefect.manager import PrefectManager

MEDIA_TYPE: Final = "application/vnd.oai.openapi+json;version=3.0"


def get_openapi(api: API, request: Request) -> Answer:
    """Return the OpenAPI document, or a page that shows it (/req/oas30/...).

    The page is ours, which needs no other server, also where pygeoapi would show Redoc.
    """
    if request.wants_html:
        links = document_links(request, f"{api.base_url}/openapi")
        return page_answer(api, request, "openapi/swagger.html", {"links": links})
    if not isinstance(api.openapi, Mapping):
        answer: Answer = openapi_(api, request)
        return answer
    document = api.openapi
    if is_complete(document):
        document = with_processes(document, _descriptions(manager_of(api)))
    return json_answer(api, request, document, media_type=MEDIA_TYPE)


def _descriptions(manager: PrefectManager) -> Mapping[str, Mapping[str, Any]]:
    descriptions = {}
    for process_id in manager.processes:
        with contextlib.suppress(UnknownProcess):  # gone meanwhile, or added by an application
            descriptions[process_id] = manager.process(process_id).description
    return descriptions
