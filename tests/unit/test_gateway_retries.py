"""How long the web side insists when the Prefect API does not answer as it should."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.stand.ports import free_port
from pygeoapi_prefect.errors import BackendUnavailable, ExecutionError
from pygeoapi_prefect.gateway import BUSY_PAUSES_SECONDS, ApiGateway


class Api:
    """Answers with one status after the other, and with the last of them from then on."""

    def __init__(self) -> None:
        self.statuses = [200]
        self.calls = 0

    def next_status(self) -> int:
        self.calls += 1
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(422, b'{"detail": "CSRF protection is disabled."}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status = made.next_status()
            if status == 0:
                self.close_connection = True
                return
            self._answer(status, b"7" if status == 200 else b'{"detail": "busy"}')

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api"}):
            yield made
        server.shutdown()


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiGateway]:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # Prefect's client waits too
    made = ApiGateway()
    yield made
    made.close()


@pytest.mark.parametrize("status", [503, 502, 429, 408, 0])
def test_a_server_that_is_busy_or_ends_the_connection_is_asked_again(
    api: Api, connected: ApiGateway, status: int
) -> None:
    api.statuses = [status, status, 200]
    assert connected.page(limit=0).number_matched == 7
    assert api.calls == 3


@pytest.mark.parametrize(("status", "calls"), [(503, 1 + len(BUSY_PAUSES_SECONDS)), (0, 4)])
def test_a_server_that_stays_busy_is_unavailable(
    api: Api, connected: ApiGateway, status: int, calls: int
) -> None:
    api.statuses = [status]
    with pytest.raises(BackendUnavailable):
        connected.page(limit=0)
    assert api.calls == calls


@pytest.mark.parametrize(("status", "error"), [(500, BackendUnavailable), (422, ExecutionError)])
def test_an_answer_that_will_not_change_is_not_asked_for_again(
    api: Api, connected: ApiGateway, status: int, error: type[Exception]
) -> None:
    api.statuses = [status]
    with pytest.raises(error):
        connected.page(limit=0)
    assert api.calls == 1


def test_where_nobody_listens_the_answer_comes_at_once(api: Api) -> None:
    made = ApiGateway()
    assert made.page(limit=0).number_matched == 7  # Prefect's client retries from here on
    made.close()
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        started_at = time.monotonic()
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            made.page(limit=0)
    assert time.monotonic() - started_at < 5
    made.close()
