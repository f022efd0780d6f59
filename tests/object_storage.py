"""An S3 server on this machine, and what can go wrong on the way to it."""

import contextlib
import dataclasses
import http.client
import http.server
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, override
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
from moto.server import ThreadedMotoServer

ACCESS_KEY = "AKIDGREBE"
SECRET_KEY = "merganser-goosander-smew"


@dataclasses.dataclass(frozen=True)
class ObjectStorage:
    """An S3 server that knows any credentials.

    Attributes:
        endpoint: Its address, as clients are told it.
    """

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What clients find it by."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            # the machine that tests run on may be one with credentials of its own
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )
        with contextlib.closing(client):
            yield client

    def create_bucket(self, name: str) -> None:
        with self.client() as client:
            client.create_bucket(Bucket=name)

    def buckets(self) -> set[str]:
        with self.client() as client:
            return {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}

    def keys(self, bucket: str, prefix: str = "") -> set[str]:
        with self.client() as client:
            listing = client.list_objects_v2(Bucket=bucket, Prefix=prefix)
        return {found["Key"] for found in listing.get("Contents", ())}

    def unfinished_uploads(self, bucket: str) -> list[str]:
        with self.client() as client:
            listing = client.list_multipart_uploads(Bucket=bucket)
        return [upload["Key"] for upload in listing.get("Uploads", ())]


@contextlib.contextmanager
def object_storage() -> Iterator[ObjectStorage]:
    """Run an S3 server in this process; all of them have the same buckets."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield ObjectStorage(f"http://{host}:{port}")
    server.stop()


class Fault(StrEnum):
    """How a request goes wrong."""

    SLOW_DOWN = "503"
    DENIED = "403"
    RESET = "reset"
    CUT = "cut"
    """The answer ends in the middle."""
    NOT_REMOVED = "not removed"
    """The answer is that all is well, and that a file was not removed."""


class FaultyWay:
    """An HTTP proxy in front of an S3 server, which lets requests go wrong as it is told to.

    Attributes:
        requests: Method and path of each request that came.
    """

    def __init__(self, target: ObjectStorage) -> None:
        self.requests: list[str] = []
        self._target = urlsplit(target.endpoint).netloc
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._method: str | None = None
        self._for_ever: Fault | None = None
        way = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                way._handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815

            @override
            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def storage(self) -> ObjectStorage:
        """The server, as it is reached through here."""
        return ObjectStorage(f"http://127.0.0.1:{self._server.server_port}")

    def fail(self, *faults: Fault, method: str | None = None) -> None:
        """Let the next requests go wrong, one after the other; of one method if it is given."""
        with self._lock:
            self._faults, self._method, self._for_ever = [*faults], method, None

    def fail_always(self, fault: Fault, method: str | None = None) -> None:
        with self._lock:
            self._faults, self._method, self._for_ever = [], method, fault

    def mend(self) -> None:
        self.fail()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _fault(self, method: str) -> Fault | None:
        with self._lock:
            if self._method not in (None, method):
                return None
            return self._faults.pop(0) if self._faults else self._for_ever

    def _handle(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{request.command} {request.path}")
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self._fault(request.command)
        match fault:
            case Fault.SLOW_DOWN | Fault.DENIED:
                _refuse(request, fault)
            case Fault.RESET:
                _reset(request)
            case Fault.NOT_REMOVED:
                error = b"<Error><Key>a</Key><Code>AccessDenied</Code></Error>"
                _answer(request, 200, b"<DeleteResult>" + error + b"</DeleteResult>")
            case _:
                self._forward(request, body, is_cut=fault is Fault.CUT)

    def _forward(
        self, request: http.server.BaseHTTPRequestHandler, body: bytes, *, is_cut: bool
    ) -> None:
        connection = http.client.HTTPConnection(self._target, timeout=60)
        with contextlib.closing(connection):
            connection.request(request.command, request.path, body, dict(request.headers))
            answer = connection.getresponse()
            content = answer.read()
        request.send_response_only(answer.status)
        headers = {name.lower(): value for name, value in answer.getheaders()}
        headers.pop("transfer-encoding", None)
        if request.command != "HEAD":
            headers["content-length"] = str(len(content))
        headers.pop("connection", None)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if is_cut:
            request.wfile.write(content[: len(content) // 2])
            request.wfile.flush()
            _reset(request)
        elif request.command != "HEAD":
            request.wfile.write(content)


def _refuse(request: http.server.BaseHTTPRequestHandler, fault: Fault) -> None:
    code = {Fault.SLOW_DOWN: "SlowDown", Fault.DENIED: "AccessDenied"}[fault]
    content = b"" if request.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
    _answer(request, int(fault), content)


def _answer(request: http.server.BaseHTTPRequestHandler, status: int, content: bytes) -> None:
    request.send_response_only(status)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def _reset(request: http.server.BaseHTTPRequestHandler) -> None:
    """End the connection with RST, as a machine does that is gone."""
    linger = struct.pack("ii", 1, 0)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.close_connection = True
