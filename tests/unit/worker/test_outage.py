"""How long a Prefect API may be away, by the settings that jobs and workers really have."""

import time

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from pygeoapi_prefect.worker import PygeoapiWorkerSettings
from pygeoapi_prefect.worker.api import is_outage
from pygeoapi_prefect.worker.child import settings_of_jobs

OUTAGE_SECONDS = 120.0


class Api:
    """A Prefect API that is away from 0 on, by a clock that goes on while others sleep."""

    def __init__(self) -> None:
        self.seconds = -1.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def answer(self, request: httpx.Request) -> httpx.Response:
        if 0 <= self.seconds < OUTAGE_SECONDS:
            raise httpx.ConnectError("away", request=request)
        return httpx.Response(200, json="there", request=request)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api()
    monkeypatch.setattr(time, "sleep", api.sleep)
    return api


def ask(api: Api) -> httpx.Response:
    transport = httpx.MockTransport(api.answer)
    with SyncPrefectClient(
        "http://prefect.invalid/api", httpx_settings={"transport": transport}
    ) as client:
        client.hello()
        api.seconds = 0
        return client.hello()


def test_the_process_of_a_job_outlasts_two_minutes(api: Api) -> None:
    with settings_of_jobs():
        assert ask(api).json() == "there"


def test_that_is_more_than_prefect_itself_waits(api: Api) -> None:
    assert PREFECT_CLIENT_MAX_RETRIES.value() > 0
    with pytest.raises(httpx.ConnectError):
        ask(api)


def test_a_worker_keeps_the_ends_of_jobs_for_longer() -> None:
    assert PygeoapiWorkerSettings().api_outage_seconds > OUTAGE_SECONDS


def refusal(status: int, text: str = "") -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://prefect.invalid/api")
    response = httpx.Response(status, text=text, request=request)
    return httpx.HTTPStatusError(text, request=request, response=response)


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("away"),
        *map(refusal, (408, 425, 429, 500, 502, 503, 504)),
        refusal(403, '{"detail":"Invalid CSRF token or client identifier."}'),
        refusal(403, '{"detail":"Missing CSRF token."}'),
    ],
)
def test_what_may_be_otherwise_soon_is_waited_for(error: httpx.HTTPError) -> None:
    assert is_outage(error)


@pytest.mark.parametrize("error", [*map(refusal, (400, 401, 403, 404, 409, 422)), ValueError()])
def test_what_stays_as_it_is_is_no_outage(error: Exception) -> None:
    assert not is_outage(error)
