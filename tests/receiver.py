"""A subscriber: an HTTP server on the loopback interface that keeps what it is sent."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pygeoapi_prefect.references import ReferencePolicy

DEADLINE_SECONDS = 120.0


class Receiver:
    """Answers every POST with the `status` of its arrival, once `let_go` is set.

    Attributes:
        received: Path and parsed body of each request, in the order of their arrival.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.status = 204
        self.let_go = threading.Event()
        self.let_go.set()
        self.received: list[tuple[str, Any]] = []
        self._arrived = threading.Condition()

    @property
    def policy(self) -> ReferencePolicy:
        return ReferencePolicy(allow_hosts=(f"{self.host}:{self.port}",))

    @property
    def subscriber(self) -> dict[str, str]:
        return {
            f"{name}Uri": f"http://{self.host}:{self.port}/{name}"
            for name in ("success", "inProgress", "failed")
        }

    def of(self, path: str) -> list[Any]:
        """The bodies that were sent to a path."""
        return [body for one, body in self.received if one == path]

    def wait_for(self, path: str, number: int = 1) -> Any:
        """The last of so many bodies sent to a path; fails when they do not come."""
        give_up_at = time.monotonic() + DEADLINE_SECONDS
        with self._arrived:
            while len(self.of(path)) < number:
                remaining_seconds = give_up_at - time.monotonic()
                assert remaining_seconds > 0, f"{path} was not sent; {self.received} was"
                self._arrived.wait(remaining_seconds)
        return self.of(path)[number - 1]

    def add(self, path: str, content: bytes) -> None:
        with self._arrived:
            self.received.append((path, json.loads(content)))
            self._arrived.notify_all()


@contextmanager
def receiving(host: str = "127.0.0.1") -> Iterator[Receiver]:
    """A running receiver at an address of the loopback interface."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.status  # a test may set another one as soon as it sees this request
            receiver.add(self.path, content)
            receiver.let_go.wait(DEADLINE_SECONDS)
            try:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except ConnectionError:
                pass  # the sender was killed

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer((host, 0), Handler)
    receiver = Receiver(host, server.server_port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()
