"""Which function answers which request: the one table that both applications mount."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from pygeoapi.api import API
from pygeoapi.formats import F_HTML, F_JSON, F_JSONLD

from pygeoapi_prefect.api import (
    assets,
    conformance,
    definition,
    execution,
    jobs,
    landing,
    logs,
    processes,
    results,
)
from pygeoapi_prefect.api.answers import Answer, finished
from pygeoapi_prefect.api.problems import error_answer, status_answer
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.errors import InvalidParameter, PygeoapiPrefectError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Route:
    """One operation of the service.

    Attributes:
        method: HTTP method; those with GET have HEAD too.
        path: Path below that of the service; ``{name}`` is handed to the function, and
            ``{name:path}`` may have slashes.
        function: Called with API, request, and what the path names.
        formats: What clients may ask for with ``f``.
        query_parameters: What else the query may have; anything if that is None.
    """

    method: str
    path: str
    function: Callable[..., Answer]
    formats: tuple[str, ...] = (F_JSON, F_HTML)
    query_parameters: tuple[str, ...] | None = None


ROUTES: Final = (
    Route("GET", "/", landing.get_landing_page, (F_JSON, F_HTML, F_JSONLD)),
    Route("GET", "/openapi", definition.get_openapi),
    Route("GET", "/conformance", conformance.get_conformance),
    Route("GET", "/processes", processes.get_processes),
    Route("GET", "/processes/{process_id}", processes.get_process),
    Route("POST", "/processes/{process_id}/execution", execution.execute),
    Route("GET", "/jobs", jobs.get_jobs, query_parameters=jobs.QUERY_PARAMETERS),
    Route("GET", "/jobs/{job_id}", jobs.get_job),
    Route("DELETE", "/jobs/{job_id}", jobs.delete_job),
    Route("GET", "/jobs/{job_id}/logs", logs.get_logs, query_parameters=logs.QUERY_PARAMETERS),
    Route("GET", "/jobs/{job_id}/results", results.get_results),
    Route("GET", "/jobs/{job_id}/results/{output_id:path}", results.get_output),
    Route("GET", "/pygeoapi-prefect/{name:path}", assets.get_asset),
)


COMMON_QUERY_PARAMETERS: Final = ("f", "lang")


def answer(api: API, request: Request, route: Route, parameters: Mapping[str, Any]) -> Answer:
    """Return what the function of a route answers, or the problem that it met."""
    try:
        if request.params.get("f") and request.format not in route.formats:
            raise InvalidParameter(f"f: must be one of {', '.join(route.formats)}")
        if route.query_parameters is not None:
            request.refuse_unknown((*route.query_parameters, *COMMON_QUERY_PARAMETERS))
        made = route.function(api, request, **parameters)
    except PygeoapiPrefectError as error:
        if error.http_status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("%s %s: %s", request.method, request.path, error.detail)
        made = error_answer(api, request, error)
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        made = unexpected_answer(api, request)
    return finished(request, made)


def unexpected_answer(api: API, request: Request) -> Answer:
    """Return the answer to a request that failed for a reason that nobody has foreseen."""
    return status_answer(
        api,
        request.as_json(),  # it may be a page that could not be made
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "the server failed to answer; its log says why",
    )
