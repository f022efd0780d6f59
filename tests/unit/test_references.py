"""Fetching what a client refers to, from a real HTTP server and with a resolver of our own."""

import contextlib
import datetime as dt
import gzip
import http.server
import io
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from pygeoapi_prefect import references
from pygeoapi_prefect.errors import InvalidRequest, RequestTooLarge
from pygeoapi_prefect.references import (
    ReferencePolicy,
    Resolver,
    check_address,
    current_policy,
    fetch,
    fetch_to,
    is_public,
    parse_href,
    post,
    resolve_host,
    written_addresses,
)

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server:
    """An HTTP server on the loopback interface that answers as told, path by path."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str, bytes]] = []
        self.closing = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                outer.requests.append((self.path, self.headers["Host"], self.rfile.read(length)))
                with contextlib.suppress(ConnectionError):
                    outer.answers[self.path](self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def use_tls(self, context: ssl.SSLContext) -> None:
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    @property
    def policy(self) -> ReferencePolicy:
        return ReferencePolicy(allow_hosts=(f"127.0.0.1:{self.port}",))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def answer(body: bytes, status: int = 200, **headers: str) -> Answer:
    """Answer with a body and its length."""

    def send(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        stated = {"Content_Length": str(len(body)), **headers}
        for name, value in stated.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def redirect(location: str, status: int = 302) -> Answer:
    return answer(b"moved", status, Location=location)


def resolver(**addresses: list[str]) -> references.Resolver:
    """Resolve `name` as the host name.example; any other host is an error."""

    def resolve(host: str, port: int) -> list[str]:
        return addresses[host.removesuffix(".example")]

    return resolve


PUBLIC = ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"]
NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::808:808",
    "fc00::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_told_as_such(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_told_as_such(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_name_with_one_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest, match=r"data\.example: refused, since it is not a public"):
        check_address(
            "https://data.example/x", ReferencePolicy(), resolve=resolver(data=["8.8.8.8", address])
        )


@pytest.mark.parametrize(
    "href",
    [
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://017700000001/",
        "http://127.1/",
        "http://127.0.0.1:8080/x",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://127。0。0。1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
    ],
)
@pytest.mark.parametrize("resolve", [resolve_host, written_addresses])
def test_this_machine_is_refused_however_it_is_written(href: str, resolve: Resolver) -> None:
    with pytest.raises(InvalidRequest, match="not a public address"):
        check_address(href, ReferencePolicy(), resolve=resolve)


@pytest.mark.parametrize(
    ("href", "allowed"),
    [
        ("http://data.example/", ()),
        ("http://localhost.example/", ()),
        ("http://8.8.8.8/", ()),
        ("http://[2001:4860:4860::8888]/", ()),
        ("http://localhost:9000/", ("localhost:9000",)),
        ("http://10.0.0.5/", ("10.0.0.5",)),
    ],
)
def test_without_a_question_only_what_an_address_says_itself_is_refused(
    href: str, allowed: tuple[str, ...]
) -> None:
    check_address(href, ReferencePolicy(allow_hosts=allowed), resolve=written_addresses)


@pytest.mark.parametrize(
    "href",
    [
        "",
        "file:///etc/passwd",
        "ftp://8.8.8.8/x",
        "data:text/plain,x",
        "//8.8.8.8/x",
        "/x",
        "http:///x",
        "http://",
        "http://./",
        "http://[::1",
        "http://8.8.8.8:abc/",
        "http://\x00/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "x" * 10_000_000,
    ],
)
def test_what_is_no_http_url_is_refused(href: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^href ") as refusal:
        parse_href(href)
    assert len(refusal.value.detail) < 200


@pytest.mark.parametrize("href", ["http://u:secret@8.8.8.8/", "http://8.8.8.8\\@127.0.0.1/"])
def test_credentials_in_a_url_are_refused_and_not_repeated(href: str) -> None:
    with pytest.raises(InvalidRequest, match="user name or password") as refusal:
        parse_href(href)
    assert "secret" not in refusal.value.detail


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_a_port_that_does_not_exist_is_refused(port: int) -> None:
    with pytest.raises(InvalidRequest, match=f"port {port} does not exist"):
        parse_href(f"http://8.8.8.8:{port}/")


def test_an_international_name_is_resolved_in_its_encoded_form() -> None:
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["8.8.8.8"]

    check_address("https://faß.example./", ReferencePolicy(), resolve=resolve)
    assert asked == [("xn--fa-hia.example", 443)]


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("label too long")])
def test_a_name_that_does_not_resolve_is_an_error_that_says_so(error: Exception) -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise error

    with pytest.raises(InvalidRequest, match=r"data\.example: the host cannot be resolved"):
        fetch("http://data.example/", ReferencePolicy(), resolve=resolve)


@pytest.mark.parametrize(
    ("entry", "host", "port", "is_allowed"),
    [
        ("data.example", "data.example", 80, True),
        ("data.example", "data.example", 8080, True),
        ("data.example", "DATA.example", 80, True),
        ("Data.Example", "data.example", 80, True),
        ("data.example", "other.example", 80, False),
        ("data.example", "a.data.example", 80, False),
        ("data.example", "evil-data.example", 80, False),
        ("data.example:8080", "data.example", 8080, True),
        ("data.example:8080", "data.example", 80, False),
        ("*.example", "data.example", 80, True),
        ("*.example", "a.data.example", 80, True),
        ("*.example", "example", 80, False),
        ("*.example", "dataexample", 80, False),
        ("*.example:8080", "data.example", 80, False),
        ("faß.example", "xn--fa-hia.example", 80, True),
        ("127.0.0.1", "127.0.0.1", 80, True),
        ("[::1]", "::1", 80, True),
        ("[::1]:8080", "::1", 8080, True),
        ("[::1]:8080", "::1", 80, False),
        ("[::1]", "::2", 80, False),
    ],
)
def test_hosts_are_allowed_by_name_port_or_domain(
    entry: str, host: str, port: int, is_allowed: bool
) -> None:
    assert ReferencePolicy(allow_hosts=(entry,)).allows(host, port) is is_allowed


@pytest.mark.parametrize("entry", ["", "*", "*.", "http://a.example", "a.example/x", "a*b", "::1"])
def test_an_entry_that_is_no_host_is_refused_with_the_configuration(entry: str) -> None:
    with pytest.raises(ValidationError, match="is not a host"):
        ReferencePolicy(allow_hosts=(entry,))


def test_content_and_media_type_come_from_an_allowed_server(server: Server) -> None:
    server.answers["/x?y=1"] = answer(b"\x00abc", Content_Type="Image/TIFF; application=geotiff")
    assert fetch(server.url("/x?y=1"), server.policy) == (b"\x00abc", "image/tiff")


def test_a_server_that_states_no_media_type_leaves_it_open(server: Server) -> None:
    server.answers["/x"] = answer(b"abc")
    assert fetch(server.url("/x"), server.policy).media_type is None


def test_without_permission_the_same_server_is_never_spoken_to(server: Server) -> None:
    with pytest.raises(InvalidRequest, match="not a public address"):
        fetch(server.url("/x"))
    assert server.requests == []


def test_the_policy_in_force_applies_where_none_is_given(server: Server) -> None:
    server.answers["/x"] = answer(b"abc")
    token = current_policy.set(server.policy)
    try:
        assert fetch(server.url("/x")).content == b"abc"
    finally:
        current_policy.reset(token)


def test_the_connection_goes_to_the_resolved_address_under_the_name_of_the_host(
    server: Server,
) -> None:
    server.answers["/x"] = answer(b"abc")
    fetched = fetch(
        server.url("/x", "data.example"),
        ReferencePolicy(allow_hosts=("data.example",)),
        resolve=resolver(data=["127.0.0.1"]),
    )
    assert fetched.content == b"abc"
    assert server.requests == [("/x", f"data.example:{server.port}", b"")]


def test_a_name_is_resolved_once_and_connected_to_what_was_checked(server: Server) -> None:
    answers = iter([["127.0.0.1"], ["8.8.8.8"]])
    server.answers["/x"] = answer(b"abc")

    fetch(
        server.url("/x", "data.example"),
        ReferencePolicy(allow_hosts=("data.example",)),
        resolve=lambda *_: next(answers),
    )
    assert next(answers) == ["8.8.8.8"]


def test_a_name_that_turns_private_after_a_first_check_is_refused(server: Server) -> None:
    answers = iter([["8.8.8.8"], ["127.0.0.1"]])

    def resolve(host: str, port: int) -> list[str]:
        return next(answers)

    href = server.url("/x", "data.example")
    check_address(href, ReferencePolicy(), resolve=resolve)
    with pytest.raises(InvalidRequest, match="not a public address"):
        fetch(href, ReferencePolicy(), resolve=resolve)
    assert server.requests == []


def test_the_next_address_is_tried_where_one_does_not_answer(server: Server) -> None:
    server.answers["/x"] = answer(b"abc")
    fetched = fetch(
        server.url("/x", "data.example"),
        ReferencePolicy(allow_hosts=("data.example",)),
        # the server listens on 127.0.0.1 alone
        resolve=resolver(data=["127.0.0.2", "127.0.0.1"]),
    )
    assert fetched.content == b"abc"


def test_a_proxy_of_the_environment_is_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/x"] = answer(b"abc")
    with Server() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url("/"))
        assert fetch(server.url("/x"), server.policy).content == b"abc"
        assert proxy.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: Server, status: int) -> None:
    server.answers["/a/1"] = redirect("../b/2?c=d#e", status)
    server.answers["/b/2?c=d"] = redirect(server.url("/x"), status)
    server.answers["/x"] = answer(b"abc")
    assert fetch(server.url("/a/1"), server.policy).content == b"abc"


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://localhost:{port}/x", "localhost: refused, since it is not a public"),
        ("//[::1]:{port}/x", "::1: refused, since it is not a public"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254: refused"),
        ("file:///etc/passwd", "not an absolute http or https URL"),
        ("http://user@127.0.0.1:{port}/x", "user name or password"),
        ("http://[::1", "not a URL"),
    ],
)
def test_a_redirect_to_where_nobody_may_go_is_refused(
    server: Server, location: str, reason: str
) -> None:
    server.answers["/a"] = redirect(location.format(port=server.port))
    with pytest.raises(InvalidRequest, match=reason):
        fetch(server.url("/a"), server.policy)
    assert [path for path, *_ in server.requests] == ["/a"]


def test_redirects_end_at_the_limit(server: Server) -> None:
    server.answers["/a"] = redirect("/a")
    policy = server.policy.model_copy(update={"max_redirects": 2})
    with pytest.raises(InvalidRequest, match="more than 2 redirects"):
        fetch(server.url("/a"), policy)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [304, 403, 404, 500, 503])
def test_an_answer_without_success_is_an_error_with_its_status(server: Server, status: int) -> None:
    server.answers["/secret"] = answer(b"", status)
    with pytest.raises(InvalidRequest, match=f"answered with status {status}") as error:
        fetch(server.url("/secret"), server.policy)
    assert "secret" not in error.value.detail


def test_a_connection_that_is_refused_is_an_error_of_the_request() -> None:
    with Server() as gone:
        url, policy = gone.url("/x"), gone.policy
    with pytest.raises(InvalidRequest, match="the connection failed"):
        fetch(url, policy)


def test_a_body_that_ends_early_is_an_error(server: Server) -> None:
    server.answers["/x"] = answer(b"abc", Content_Length="10")
    with pytest.raises(InvalidRequest, match="the connection failed"):
        fetch(server.url("/x"), server.policy)


def limited(server: Server, max_bytes: int) -> ReferencePolicy:
    return server.policy.model_copy(update={"max_bytes": max_bytes})


def test_content_up_to_the_limit_is_fetched(server: Server) -> None:
    server.answers["/x"] = answer(b"x" * 1000)
    assert len(fetch(server.url("/x"), limited(server, 1000)).content) == 1000


def test_content_of_a_stated_length_over_the_limit_is_not_read(server: Server) -> None:
    server.answers["/x"] = answer(b"", Content_Length="1001")
    with pytest.raises(RequestTooLarge, match="more than 1000 bytes"):
        fetch(server.url("/x"), limited(server, 1000))


def test_content_without_a_stated_length_is_cut_off_at_the_limit(server: Server) -> None:
    def send_without_end(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not server.closing.is_set():
            handler.wfile.write(b"x" * 1000)

    server.answers["/x"] = send_without_end
    file = io.BytesIO()
    with pytest.raises(RequestTooLarge, match="more than 5000 bytes"):
        fetch_to(server.url("/x"), file, limited(server, 5000))
    assert file.tell() <= 5000


def test_a_gzip_bomb_is_cut_off_at_the_limit_of_its_content(server: Server) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    server.answers["/x"] = answer(bomb, Content_Encoding="gzip")
    file = io.BytesIO()
    with pytest.raises(RequestTooLarge, match="more than 1000000 bytes"):
        fetch_to(server.url("/x"), file, limited(server, 1_000_000))
    assert len(bomb) < 100_000
    assert file.tell() <= 1_000_000


def test_gzip_is_decoded_also_from_several_members(server: Server) -> None:
    body = gzip.compress(b"abc" * 1_000_000) + gzip.compress(b"def")
    server.answers["/x"] = answer(body, Content_Encoding="gzip")
    assert fetch(server.url("/x"), server.policy).content == b"abc" * 1_000_000 + b"def"


@pytest.mark.parametrize(
    "body",
    [b"no gzip at all", gzip.compress(b"abc" * 1000, mtime=0)[:-10], b""],
    ids=["other", "cut off", "empty"],
)
def test_broken_gzip_is_an_error(server: Server, body: bytes) -> None:
    server.answers["/x"] = answer(body, Content_Encoding="gzip")
    with pytest.raises(InvalidRequest, match="broken gzip"):
        fetch(server.url("/x"), server.policy)


def test_an_encoding_that_was_not_asked_for_is_an_error(server: Server) -> None:
    server.answers["/x"] = answer(b"abc", Content_Encoding="br")
    with pytest.raises(InvalidRequest, match="an encoding other than gzip"):
        fetch(server.url("/x"), server.policy)


def hasty(server: Server) -> ReferencePolicy:
    return server.policy.model_copy(update={"timeout_seconds": 0.3})


def test_a_server_that_does_not_answer_in_time_is_left(server: Server) -> None:
    def stall(handler: http.server.BaseHTTPRequestHandler) -> None:
        server.closing.wait()

    server.answers["/x"] = stall
    with pytest.raises(InvalidRequest, match=r"no complete answer within 0\.3 s"):
        fetch(server.url("/x"), hasty(server))


@pytest.mark.parametrize("part", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_server_that_drips_its_answer_is_left_all_the_same(server: Server, part: bytes) -> None:
    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(part)
        while not server.closing.wait(0.02):
            handler.wfile.write(b"x")

    server.answers["/x"] = drip
    with pytest.raises(InvalidRequest, match=r"no complete answer within 0\.3 s"):
        fetch(server.url("/x"), hasty(server))


def test_redirects_share_one_limit_of_time(server: Server) -> None:
    def late(handler: http.server.BaseHTTPRequestHandler) -> None:
        server.closing.wait(0.1)
        redirect("/a")(handler)

    server.answers["/a"] = late
    policy = hasty(server).model_copy(update={"max_redirects": 1000})
    with pytest.raises(InvalidRequest, match=r"no complete answer within 0\.3 s"):
        fetch(server.url("/a"), policy)
    assert len(server.requests) <= 4


def certificate(directory: Path, name: str) -> Path:
    """Write a key and a self-signed certificate for a host into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_tls_is_spoken_with_the_name_of_the_host_and_its_certificate_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, "data.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    policy = ReferencePolicy(allow_hosts=("*.example",))
    resolve = resolver(data=["127.0.0.1"], other=["127.0.0.1"])
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    references._tls.cache_clear()
    try:
        server = Server()
        server.use_tls(context)
        with server:
            server.answers["/x"] = answer(b"abc")
            href = f"https://data.example:{server.port}/x"
            assert fetch(href, policy, resolve=resolve).content == b"abc"
            with pytest.raises(InvalidRequest, match="the connection failed"):
                fetch(href.replace("data", "other"), policy, resolve=resolve)
    finally:
        references._tls.cache_clear()
    assert names == ["data.example", "other.example"]


def test_content_is_posted_with_its_media_type(server: Server) -> None:
    received = []

    def receive(handler: http.server.BaseHTTPRequestHandler) -> None:
        received.append((handler.command, handler.headers["Content-Type"]))
        answer(b"")(handler)

    server.answers["/done"] = receive
    post(server.url("/done"), b'{"a": 1}', "application/json", server.policy)
    assert received == [("POST", "application/json")]
    assert server.requests == [("/done", f"127.0.0.1:{server.port}", b'{"a": 1}')]


def test_a_post_to_an_address_that_is_not_public_is_never_sent(server: Server) -> None:
    with pytest.raises(InvalidRequest, match="not a public address"):
        post(server.url("/done"), b"{}", "application/json", ReferencePolicy())
    assert server.requests == []


def test_a_post_is_not_redirected(server: Server) -> None:
    server.answers["/done"] = redirect("/elsewhere")
    with pytest.raises(InvalidRequest, match="answered with status 302"):
        post(server.url("/done"), b"{}", "application/json", server.policy)
    assert [path for path, *_ in server.requests] == ["/done"]
