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


def origin(api: API) -> tuple[str, str]:
    """Return scheme and host of this service, as its configuration has them.

    Requests are taken for ones to that host, whatever they say: the frameworks make the
    addresses of redirects of it, and anybody can send any ``Host``.
    """
    url = urllib.parse.urlsplit(api.config["server"]["url"])
    return url.scheme, url.netloc.rpartition("@")[2]


def manager_of(api: API) -> PrefectManager:
    """Return the process manager of an API for which `prepare` was called."""
    return cast(PrefectManager, api.manager)


def job_url(api: API, job_id: str) -> str:
    """Return the address of a job."""
    return f"{api.base_url}/jobs/{urllib.parse.quote(job_id, safe='')}"


def logs_url(api: API, job_id: str) -> str:
    """Return the address of the log of a job."""
    return f"{job_url(api, job_id)}/logs"


def output_url(api: API, job_id: str, output_id: str) -> str:
    """Return the address of one output of a job."""
    return f"{job_url(api, job_id)}/results/{urllib.parse.quote(output_id, safe='')}"


def page_links(
    request: Request,
    url: str,
    *,
    offset: int,
    prev_offset: int | None,
    next_offset: int | None,
) -> list[dict[str, str]]:
    """Return links of a list: to itself in each form, to its first page, and to those beside it.

    They keep all parameters of the request.

    Args:
        request: The request.
        url: Address of the list.
        offset: Where the page starts.
        prev_offset: Where the page before it does, if there is one and that is known.
        next_offset: Where the page after it does, if there is one.
    """
    kept = [(name, value) for name, value in request.parameters if name not in ("f", "offset")]

    def query(*more: tuple[str, Any]) -> str:
        return urllib.parse.urlencode([*kept, *more], safe=":,/")

    links = document_links(request, url, query(("offset", offset)) if offset else query())
    form = [("f", request.format)] if request.params.get("f") else []
    beside = (
        ("next", next_offset, "Next page"),
        ("prev", prev_offset, "Previous page"),
        ("first", 0 if offset else None, "First page"),
    )
    for relation, start, title in beside:
        if start is not None:
            href = f"{url}?{query(('offset', start), *form)}"
            links.append(link(relation, href, title=title))
    return links
