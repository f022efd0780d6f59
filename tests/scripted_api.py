"""A Prefect API that answers as it is told."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prefect.settings import PREFECT_API_URL, temporary_settings


class ScriptedApi:
    """Answers with one status after the other, and with the last of them from then on.

    Attributes:
        statuses: Those to come; 200 answers with the number 7, and 0 ends the connection.
        body: Of all other answers.
        calls: How many there were.
    """

    def __init__(self) -> None:
        self.statuses = [200]
        self.body = b'{"detail": "busy"}'
        self.calls = 0

    def next_status(self) -> int:
        self.calls += 1
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@contextlib.contextmanager
def scripted_api() -> Iterator[ScriptedApi]:
    """Run such an API, which is that of this process, inside the block."""
    made = ScriptedApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith("/api/csrf-token"):
                self._answer(422, b'{"detail": "CSRF protection is disabled."}')
            else:
                self._answer_next()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer_next()

        def _answer_next(self) -> None:
            status = made.next_status()
            if status == 0:
                self.close_connection = True
                return
            self._answer(status, b"7" if status == 200 else made.body)

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
