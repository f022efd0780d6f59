"""Calls of the Prefect API: over one client per process, again where it is busy.

Foreign exceptions of the API client end here, as errors of ours. A server that does not
answer, or answers what the Prefect API would not, is `BackendUnavailable`.
"""

import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import httpx
import pydantic
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings

from pygeoapi_prefect.dialect import cut
from pygeoapi_prefect.errors import (
    BackendUnavailable,
    BackendUnreachable,
    ExecutionError,
    InvalidRequest,
    PygeoapiPrefectError,
)
from pygeoapi_prefect.prefect_settings import SettingsOverride

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS: Final = 5.0
RETRY_PAUSES_SECONDS: Final = (0.1, 0.5, 2.0)
"""Between calls that are made again. Prefect's own retries would take over a minute, for
each of the requests that then wait for a server that is down."""
BUSY_PAUSES_SECONDS: Final = (0.03,) * 650
"""Between calls of a Prefect API that answers, but is busy: 20 s in all. Where many write to
SQLite at once, most calls may find it locked, and no job should be turned away. Pauses are
short, since others wait for their turn meanwhile: of those who create runs, one asks at a time."""
TURN_SECONDS: Final = 15.0
"""How long a creation waits for others at most, which may get no answer at all."""

_RETRYING_NOTHING: Final = SettingsOverride({PREFECT_CLIENT_MAX_RETRIES: 0})
BUSY_STATUSES: Final = frozenset(
    {
        httpx.codes.REQUEST_TIMEOUT,
        httpx.codes.TOO_MANY_REQUESTS,
        httpx.codes.BAD_GATEWAY,
        httpx.codes.SERVICE_UNAVAILABLE,
    }
)
"""After which Prefect's own clients try again."""
_PARAMETERS_REFUSED: Final = re.compile(
    r"Error creating flow run: Validation failed(?: for field (.+?))?\. Failure reason: (.+)",
    re.DOTALL,
)
_REASON_CHARACTERS: Final = 300
_NO_SUCH_ROUTE: Final = "Not Found"
"""What the Prefect server, and much else, says of an address that means nothing to it."""


class PrefectConnection:
    """The Prefect API at ``PREFECT_API_URL``, for all threads of a process.

    Args:
        before_first_call: Called once in each process that uses the connection, before its
            first call; again before the next one if it raises.
    """

    def __init__(self, before_first_call: Callable[[], None] | None = None) -> None:
        self._before_first_call = before_first_call
        self._prepared_process: int | None = None
        self._lock = threading.Lock()
        self._connected: tuple[int, SyncPrefectClient] | None = None
        self._turn = threading.Lock()

    def close(self) -> None:
        """Close what is open; the next call opens it again."""
        with self._lock:
            if self._connected is not None and self._connected[0] == os.getpid():
                self._connected[1].__exit__(None, None, None)
            self._connected = None

    def call[Answer](
        self,
        call: Callable[[SyncPrefectClient], Answer],
        *,
        missing: PygeoapiPrefectError | None = None,
    ) -> Answer:
        """Return what a call answers.

        It may be made several times: so runs are created under idempotency keys.

        Args:
            call: Asks the API through a client, and does nothing else.
            missing: For a call about one object: what is raised if there is no such object.

        Raises:
            BackendUnavailable: The Prefect API does not answer, or it is not what answers.
            BackendUnreachable: Not even a connection could be made.
            InvalidRequest: It refuses parameters of a flow run.
            ExecutionError: It refuses the call for another reason.
        """
        pauses_seconds = _Pauses(iter(RETRY_PAUSES_SECONDS), iter(BUSY_PAUSES_SECONDS))
        is_first = True
        while True:
            client = self._client()
            try:
                with _RETRYING_NOTHING():
                    return call(client)
            except _FOREIGN as error:
                if not _pause(pauses_seconds.after(error)):
                    problem = _translated(error, missing)
                    if isinstance(problem, BackendUnreachable) and not is_first:
                        problem = BackendUnavailable(problem.detail)  # it may have been before
                    raise problem from error
                logger.info("the Prefect API is asked again after %r", error)
                is_first = False

    def create[Answer](
        self,
        create: Callable[[SyncPrefectClient], Answer],
        *,
        missing: PygeoapiPrefectError | None = None,
    ) -> Answer:
        """Create something, as `call` does; one at a time.

        On SQLite, of those who create runs at once, one succeeds, and the others ask again.
        """
        has_turn = self._turn.acquire(timeout=TURN_SECONDS)
        try:
            return self.call(create, missing=missing)
        finally:
            if has_turn:
                self._turn.release()

    def _client(self) -> SyncPrefectClient:
        with self._lock:
            # servers fork after they have loaded the application: sockets are not shared
            if self._connected is None or self._connected[0] != os.getpid():
                self._connected = os.getpid(), _new_client()
            client = self._connected[1]
            is_first_call = self._prepared_process != os.getpid()
            self._prepared_process = os.getpid()
        if is_first_call and self._before_first_call is not None:
            try:
                self._before_first_call()
            except BaseException:
                self._prepared_process = None
                raise
        return client


def _new_client() -> SyncPrefectClient:
    settings = get_current_settings()
    if not settings.api.url:
        # Prefect would quietly start a server of its own
        raise BackendUnreachable(
            "no Prefect server is configured: the operator sets PREFECT_API_URL"
        )
    timeout = httpx.Timeout(settings.api.request_timeout, connect=CONNECT_TIMEOUT_SECONDS)
    hooks = {"response": [_raise_where_busy]}
    try:
        client = get_client(
            sync_client=True, httpx_settings={"timeout": timeout, "event_hooks": hooks}
        )
    except httpx.InvalidURL as error:
        raise _out_of_reach(error) from error
    client.__enter__()
    return client


class _BusyAnswer(Exception):
    """The Prefect API answers that it is busy."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    @property
    def is_of_a_proxy(self) -> bool:
        """Whether there is nothing behind a proxy, which then is not busy."""
        return self.status == httpx.codes.BAD_GATEWAY


_FOREIGN: Final = (
    _BusyAnswer,
    httpx.HTTPError,
    ObjectNotFound,  # what the client makes of some answers
    # the answer is no JSON, or not what the client can make objects of
    json.JSONDecodeError,
    UnicodeDecodeError,
    pydantic.ValidationError,
)
_CONNECTION_ENDED: Final = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class _Pauses(NamedTuple):
    """How long to wait before a call is made again, which happens so many times."""

    away: Iterator[float]
    busy: Iterator[float]

    def after(self, error: Exception) -> Iterator[float]:
        """Return the pauses that are left after an error of a call."""
        match error:
            case _BusyAnswer(is_of_a_proxy=False):
                return self.busy
            case _BusyAnswer():
                return self.away
            case PrefectHTTPStatusError() if _has_new_csrf_token(error.response):
                return self.away
        return self.away if isinstance(error, _CONNECTION_ENDED) else iter(())


def _raise_where_busy(response: httpx.Response) -> None:
    # Prefect's client would wait for two seconds and more
    if response.status_code in BUSY_STATUSES:
        raise _BusyAnswer(response.status_code)


def _pause(pauses_seconds: Iterator[float]) -> bool:
    """Wait before another call; whether there is to be one."""
    seconds = next(pauses_seconds, None)
    if seconds is None:
        return False
    # those who were refused together must not come back together
    time.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311  nothing secret
    return True


def _has_new_csrf_token(response: httpx.Response) -> bool:
    # the client has fetched another one by now
    return response.status_code == httpx.codes.FORBIDDEN and "Invalid CSRF token" in response.text


def _translated(error: Exception, missing: PygeoapiPrefectError | None) -> PygeoapiPrefectError:
    """Return our error for a foreign one."""
    match error:
        case _BusyAnswer(status=status):
            return _no_answer(status)
        case httpx.HTTPStatusError(response=response):
            return _error_of(response, missing)
        case ObjectNotFound(http_exc=httpx.HTTPStatusError(response=response)):
            return _error_of(response, missing)
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return _out_of_reach(error)
        case httpx.HTTPError():
            return BackendUnavailable(_out_of_reach(error).detail)
    logger.error("what answers is no Prefect API: see PREFECT_API_URL (%r)", error)
    return _failed_to_answer()


def _error_of(
    response: httpx.Response, missing: PygeoapiPrefectError | None
) -> PygeoapiPrefectError:
    """Return our error for an answer that is one."""
    status = response.status_code
    reason = _reason(response)
    if status == httpx.codes.NOT_FOUND:
        if missing is not None and reason not in ("", _NO_SUCH_ROUTE):
            return missing
        logger.error(
            "the Prefect API has no %s, or it is not what answers: see PREFECT_API_URL",
            response.request.url.path,
        )
        return _failed_to_answer()
    if response.is_server_error:
        return _no_answer(status)
    if status == httpx.codes.CONFLICT and (refusal := _PARAMETERS_REFUSED.match(reason)):
        parts = ": ".join(filter(None, refusal.groups()))
        return InvalidRequest(f"inputs: {cut(parts, _REASON_CHARACTERS)}")
    logger.error("the Prefect API refused a request: %s", response.text)
    return ExecutionError("the Prefect server refused a request of this server")


def _out_of_reach(error: Exception) -> BackendUnreachable:
    logger.error("the Prefect API cannot be reached: %r", error)
    return BackendUnreachable("the Prefect server cannot be reached; try again later")


def _no_answer(status: int) -> BackendUnavailable:
    logger.error("the Prefect API answered %s", status)
    return _failed_to_answer()


def _failed_to_answer() -> BackendUnavailable:
    return BackendUnavailable("the Prefect server failed to answer; try again later")


def _reason(response: httpx.Response) -> str:
    """Return why the Prefect API refuses a call; nothing where it is not what answers."""
    try:
        body: Any = response.json()
    except ValueError:
        return ""
    if not isinstance(body, dict):
        return ""
    return str(body.get("detail") or body.get("exception_message") or "")
