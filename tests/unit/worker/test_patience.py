"""How long the process of a job sleeps while the Prefect API is away."""

import time
from collections.abc import Callable, Iterator

import anyio
import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from pygeoapi_prefect.worker.patience import ask_every_few_seconds
from tests.scripted_api import ScriptedApi, scripted_api

# four, give or take Prefect's jitter
LONGEST_PAUSE_SECONDS = 5.0
FAILURES = 12


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as made, temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 8}):
        yield made


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What clients would have slept; they do not."""
    slept: list[float] = []
    yield_once = anyio.lowlevel.checkpoint

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await yield_once()

    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(anyio, "sleep", sleep)
    return slept


def count(for_seconds: float) -> int:
    with get_client(sync_client=True) as client:
        ask_every_few_seconds(client, for_seconds)
        return client.count_flow_runs()


def count_async(for_seconds: float) -> int:
    async def ask() -> int:
        async with get_client() as client:
            ask_every_few_seconds(client, for_seconds)
            return await client.count_flow_runs()

    return anyio.run(ask)


both = pytest.mark.parametrize("ask", [count, count_async])


@both
@pytest.mark.parametrize("status", [503, 502, 429, 408, 0])
def test_pauses_stay_short_however_long_the_api_is_away(
    api: ScriptedApi, pauses: list[float], ask: Callable[[float], int], status: int
) -> None:
    api.statuses = [*[status] * FAILURES, 200]

    assert ask(600.0) == 7

    assert api.calls == FAILURES + 1
    assert pauses
    assert max(pauses) < LONGEST_PAUSE_SECONDS


@both
@pytest.mark.parametrize("status", [503, 0])
def test_it_is_given_up_in_the_end(
    api: ScriptedApi, pauses: list[float], ask: Callable[[float], int], status: int
) -> None:
    api.statuses = [status]

    with pytest.raises((PrefectHTTPStatusError, httpx.TransportError)):
        ask(0.0)

    assert api.calls == 2


@both
def test_what_is_refused_is_not_asked_again(
    api: ScriptedApi, pauses: list[float], ask: Callable[[float], int]
) -> None:
    api.statuses = [500]

    with pytest.raises(PrefectHTTPStatusError):
        ask(600.0)

    assert (api.calls, pauses) == (1, [])
