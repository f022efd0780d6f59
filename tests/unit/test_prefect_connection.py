"""How long the web side insists when the Prefect API does not answer as it should."""

import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.stand.ports import free_port
from pygeoapi_prefect.errors import (
    BackendUnavailable,
    BackendUnreachable,
    ExecutionError,
    JobNotFound,
    PygeoapiPrefectError,
)
from pygeoapi_prefect.prefect_connection import BUSY_PAUSES_SECONDS, PrefectConnection
from tests.scripted_api import ScriptedApi, scripted_api


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as made:
        yield made


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrefectConnection]:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # Prefect's client waits too
    made = PrefectConnection()
    yield made
    made.close()


def count(client: SyncPrefectClient) -> int:
    return client.count_flow_runs()


def read(client: SyncPrefectClient) -> object:
    return client.read_flow_run(uuid.uuid4())


def write(client: SyncPrefectClient) -> object:
    return client.request("POST", "/logs/", json={})


@pytest.mark.parametrize("status", [503, 502, 429, 408, 0])
def test_a_server_that_is_busy_or_ends_the_connection_is_asked_again(
    api: ScriptedApi, connection: PrefectConnection, status: int
) -> None:
    api.statuses = [status, status, 200]
    assert connection.call(count) == 7
    assert api.calls == 3


@pytest.mark.parametrize(("status", "calls"), [(503, 1 + len(BUSY_PAUSES_SECONDS)), (0, 4)])
def test_a_server_that_stays_busy_is_unavailable(
    api: ScriptedApi, connection: PrefectConnection, status: int, calls: int
) -> None:
    api.statuses = [status]
    with pytest.raises(BackendUnavailable) as raised:
        connection.call(count)
    assert api.calls == calls
    assert not isinstance(raised.value, BackendUnreachable)  # it may have done what was asked


@pytest.mark.parametrize(("status", "error"), [(500, BackendUnavailable), (422, ExecutionError)])
def test_an_answer_that_will_not_change_is_not_asked_for_again(
    api: ScriptedApi, connection: PrefectConnection, status: int, error: type[Exception]
) -> None:
    api.statuses = [status]
    with pytest.raises(error):
        connection.call(count)
    assert api.calls == 1


MISSING = JobNotFound("there is no job a")


@pytest.mark.parametrize("call", [read, write], ids=lambda call: str(call.__name__))
@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b'{"detail": "Flow run not found"}', JobNotFound),
        (404, b'{"exception_message": "Flow run with id 1 not found"}', JobNotFound),
        (409, b'{"detail": "Data integrity conflict. This usually means ..."}', ExecutionError),
        # no such route, no such page: it is not the Prefect API that answers, or not all of it
        (404, b'{"detail": "Not Found"}', BackendUnavailable),
        (404, b"<html>404</html>", BackendUnavailable),
        (404, b"[]", BackendUnavailable),
        (404, b"", BackendUnavailable),
    ],
)
def test_an_object_is_missing_only_where_the_prefect_api_says_so(
    api: ScriptedApi,
    connection: PrefectConnection,
    call: Callable[[SyncPrefectClient], object],
    status: int,
    body: bytes,
    error: type[PygeoapiPrefectError],
) -> None:
    api.statuses = [status]
    api.body = body
    with pytest.raises(error):
        connection.call(call, missing=MISSING)


@pytest.mark.parametrize("call", [count, read, write], ids=lambda call: str(call.__name__))
def test_a_call_about_no_object_in_particular_misses_none(
    api: ScriptedApi, connection: PrefectConnection, call: Callable[[SyncPrefectClient], object]
) -> None:
    api.statuses = [404]
    api.body = b'{"detail": "Flow run not found"}'
    with pytest.raises(BackendUnavailable, match="failed to answer"):
        connection.call(call)


@pytest.mark.parametrize("call", [read, lambda client: client.read_flow_runs()])
def test_an_answer_that_is_none_of_the_prefect_api_is_no_answer(
    api: ScriptedApi, connection: PrefectConnection, call: Callable[[SyncPrefectClient], object]
) -> None:
    with pytest.raises(BackendUnavailable, match="failed to answer"):
        connection.call(call, missing=MISSING)  # the number 7


def test_where_nobody_listens_the_answer_comes_at_once(
    api: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    made = PrefectConnection()
    assert made.call(count) == 7  # Prefect's client retries from here on
    made.close()
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}),
        pytest.raises(BackendUnreachable, match="cannot be reached"),
    ):
        made.call(count)
    # the HTTP client makes some of its own
    assert sum(pauses) < 5
    made.close()


def test_an_address_that_is_none_is_out_of_reach() -> None:
    made = PrefectConnection()
    with (
        temporary_settings({PREFECT_API_URL: "http://prefect:port/api"}),
        pytest.raises(BackendUnreachable),
    ):
        made.call(count)


def test_before_its_first_call_something_is_done_until_that_succeeds(api: ScriptedApi) -> None:
    problems = [KeyError("bug")]
    done: list[None] = []

    def prepare() -> None:
        if problems:
            raise problems.pop()
        done.append(None)

    made = PrefectConnection(prepare)
    with pytest.raises(KeyError):
        made.call(count)
    for _ in range(2):
        assert made.call(count) == 7
    assert done == [None]
    made.close()
