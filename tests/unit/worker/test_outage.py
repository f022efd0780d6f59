"""How long a Prefect API may be away, by the settings that jobs and workers really have."""

import time

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from pygeoapi_prefect.worker import PygeoapiWorkerSettings
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
