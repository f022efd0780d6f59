"""What the functions of this package share of the service that they are part of."""

import urllib.parse
from typing import Any, cast

from pygeoapi.api import API

from pygeoapi_prefect.api.answers import document_links, link
from pygeoapi_prefect.api.request import LIMIT_DEFAULT, LIMIT_MAX, Request
from pygeoapi_prefect.errors import ConfigurationError
from pygeoapi_prefect.manager import PrefectManager


def prepare(api: API) -> None:
    """Make pygeoapi's API one of this package: it hands out single outputs, and says where.

    Raises:
        ConfigurationError: The configuration chooses another process manager.
    """
    if not isinstance(api.manager, PrefectManager):
        raise ConfigurationError(
            "server.manager.name: these applications serve processes of "
            "pygeoapi_prefect.manager.PrefectManager alone"
        )
    api.manager.output_url = lambda job_id, output_id: output_url(api, job_id, output_id)
    api.manager.start_background_work()
    # pygeoapi's job page fails without
    limits = api.tpl_config["server"].setdefault("limits", {})
    limits.setdefault("default_items", LIMIT_DEFAULT)
    limits.setdefault("max_items", LIMIT_MAX)


def manager_of(api: API) -> PrefectManager:
    """Return the process manager of an API for which `prepare` was called."""
    return cast(PrefectManager, api.manager)


def job_url(api: API, job_id: str) -> str:
    """Return the address of a job."""
    return f"{api.base_url}/jobs/{urllib.parse.quote(job_id, safe='')}"


def output_url(api: API, job_id: str, output_id: str) -> str:
    """Return the address of one output of a job."""
    return f"{job_url(api, job_id)}/results/{urllib.parse.quote(output_id, safe='')}"


def page_links(
    request: Request, url: str, *, offset: int, limit: int, next_offset: int | None
) -> list[dict[str, str]]:
    """Return links of a list: to itself in each form, and to the pages beside it.

    They keep all parameters of the request.
    """
    kept = [(name, value) for name, value in request.parameters if name not in ("f", "offset")]

    def query(*more: tuple[str, Any]) -> str:
        return urllib.parse.urlencode([*kept, *more], safe=":,/")

    links = document_links(request, url, query(("offset", offset)) if offset else query())
    form = [("f", request.format)] if request.params.get("f") else []
    if next_offset is not None:
        href = f"{url}?{query(('offset', next_offset), *form)}"
        links.append(link("next", href, title="Next page"))
    if offset:
        href = f"{url}?{query(('offset', max(0, offset - limit)), *form)}"
        links.append(link("prev", href, title="Previous page"))
    return links
