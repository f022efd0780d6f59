"""How long the process of a job sleeps while the Prefect API is away."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from pygeoapi_prefect.worker.patience import ask_every_few_seconds

# four, give or take Prefect's jitter
LONGEST_PAUSE_SECONDS = 5.0
FAILURES = 12


class Api:
    """Answers with these, one after the other, and then with 7; None ends the connection."""

    def __init__(self) -> None:
        self.statuses: list[int | None] = []
        self.calls = 0


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(422, {"detail": "CSRF protection is disabled."})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            made.calls += 1
            status = made.statuses.pop(0) if made.statuses else 200
            if status is None:
                self.close_connection = True
            else:
                self._answer(status, 7 if status == 200 else {"detail": "away"})

        def _answer(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        settings = {
            PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api",
            PREFECT_CLIENT_MAX_RETRIES: 8,
        }
        with temporary_settings(settings):
            yield made
        server.shutdown()


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
@pytest.mark.parametrize("status", [503, 502, 429, 408, None])
def test_pauses_stay_short_however_long_the_api_is_away(
    api: Api, pauses: list[float], ask: Callable[[float], int], status: int | None
) -> None:
    api.statuses = [status] * FAILURES

    assert ask(600.0) == 7

    assert api.calls == FAILURES + 1
    assert pauses
    assert max(pauses) < LONGEST_PAUSE_SECONDS


@both
@pytest.mark.parametrize("status", [503, None])
def test_it_is_given_up_in_the_end(
    api: Api, pauses: list[float], ask: Callable[[float], int], status: int | None
) -> None:
    api.statuses = [status] * FAILURES

    with pytest.raises((PrefectHTTPStatusError, httpx.TransportError)):
        ask(0.0)

    assert api.calls == 2


@both
def test_what_is_refused_is_not_asked_again(
    api: Api, pauses: list[float], ask: Callable[[float], int]
) -> None:
    api.statuses = [500]

    with pytest.raises(PrefectHTTPStatusError):
        ask(600.0)

    assert (api.calls, pauses) == (1, [])
