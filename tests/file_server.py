"""An HTTP server on the loopback interface that links can lead to."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pygeoapi_prefect.references import ReferencePolicy


class FileServer:
    """Hands out `files`, content and media type by path.

    Attributes:
        requested: The paths that were asked for.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.files: dict[str, tuple[bytes, str]] = {}
        self.requested: list[str] = []

    @property
    def policy(self) -> ReferencePolicy:
        return ReferencePolicy(allow_hosts=(f"127.0.0.1:{self.port}",))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def serving_files() -> Iterator[FileServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requested.append(self.path)
            content, media_type = server.files.get(self.path, (b"", "text/plain"))
            self.send_response(200 if self.path in server.files else 404)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # of who has had enough
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        server = FileServer(running.server_address[1])
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            running.shutdown()
            thread.join()
