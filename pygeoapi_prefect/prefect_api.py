"""The Prefect API as commands meet it: where it is, and whether it answers.

Servers and workers, which go on when it is away for a while, have clients of their own. Prefect
is imported where it is needed, for reasons that `stack` gives.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import httpx

from pygeoapi_prefect.errors import BackendUnavailable

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

REQUEST_TIMEOUT_SECONDS: Final = 5


def api_url() -> str:
    """Return the address of the Prefect API, from the environment or the active profile.

    Raises:
        BackendUnavailable: None is set. Prefect would quietly start a server of its own.
    """
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        raise BackendUnavailable(
            "no Prefect API: set PREFECT_API_URL, e.g. to http://127.0.0.1:4200/api for the one "
            "that `pygeoapi-prefect up` starts"
        )
    return url


def shown(url: str) -> str:
    """Return an address as people may see it: without user name and password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


@contextlib.contextmanager
def impatient_client() -> "Iterator[SyncPrefectClient]":
    """Open a client that does not try again.

    Who waits for an answer asks again himself; who checks for one wants to know soon.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    impatience = {
        PREFECT_API_REQUEST_TIMEOUT: REQUEST_TIMEOUT_SECONDS,
        PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    with temporary_settings(impatience), get_client(sync_client=True) as client:
        yield client


def require_api() -> None:
    """Find out whether the Prefect API is there.

    Raises:
        BackendUnavailable: No address is set, or nothing usable answers there.
    """
    url = api_url()
    try:
        with impatient_client() as client:
            problem = client.api_healthcheck()
    except (ValueError, RuntimeError) as error:  # an address that is none, an unfit version
        problem = error
    if problem is not None:
        if isinstance(problem, httpx.HTTPStatusError):
            reason = f"HTTP status {problem.response.status_code}"
        else:
            reason = " ".join(str(problem).split()) or type(problem).__name__
        reason = reason.replace(url, shown(url))
        raise BackendUnavailable(
            f"no Prefect API answers at {shown(url)}: {reason}; check PREFECT_API_URL"
        )
