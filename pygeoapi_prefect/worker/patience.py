"""How the process of a job waits for a Prefect API that is away.

Prefect's clients double the pause between their attempts: after an outage of two minutes, they
may sleep for as long again, and the process with them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from pygeoapi_prefect.prefect_connection import BUSY_STATUSES
from pygeoapi_prefect.prefect_settings import SettingsOverride

# after which Prefect's clients give up by themselves, having paused for 2 s, or 2 and 4 s
_RETRYING_ONCE = SettingsOverride({PREFECT_CLIENT_MAX_RETRIES: 1})
_AWAY = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.LocalProtocolError,
    httpx.RemoteProtocolError,
)


def ask_every_few_seconds(client: SyncPrefectClient | PrefectClient, for_seconds: float) -> None:
    """Have a client ask an API that is away again and again, for so long."""
    patched: Any = client  # mypy lets no method be assigned
    plain_request = patched.request

    def request(*args: Any, **options: Any) -> Any:
        give_up_at = time.monotonic() + for_seconds
        while True:
            with _outage_suppressed(give_up_at), _RETRYING_ONCE():
                return plain_request(*args, **options)

    async def request_async(*args: Any, **options: Any) -> Any:
        give_up_at = time.monotonic() + for_seconds
        while True:
            with _outage_suppressed(give_up_at), _RETRYING_ONCE():
                return await plain_request(*args, **options)

    patched.request = request if isinstance(client, SyncPrefectClient) else request_async


@contextmanager
def _outage_suppressed(until: float) -> Iterator[None]:
    try:
        yield
    except _AWAY:
        if time.monotonic() > until:
            raise
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in BUSY_STATUSES or time.monotonic() > until:
            raise
