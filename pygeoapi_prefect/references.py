"""HTTP to addresses that a client named: inputs by reference, and callbacks.

A client must not reach through this server what it could not reach by itself. So a host
is resolved once, every address that it resolves to must be public, and the connection is
made to an address that was checked: a name that resolves differently the second time
gains nothing. Redirects are followed here, one by one, under the same rule. Hosts that
the operator allows are exempt. Proxies of the environment are not used, since a proxy
would resolve the name again.

Public means: global unicast as the IANA special-purpose registries have it (RFC 6890),
with IPv4 addresses embedded in IPv6 ones judged as what they are.
"""

import contextlib
import functools
import io
import ipaddress
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import IO, Annotated, NamedTuple, override

import httpcore
import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pygeoapi_prefect.errors import InvalidRequest, RequestTooLarge

Resolver = Callable[[str, int], list[str]]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DECODED_CHUNK_BYTES = 1 << 20

_ALLOWED_HOST = re.compile(
    r"(?P<wildcard>\*\.)?(?P<name>[\w-]+(?:\.[\w-]+)*|\[[0-9a-f:.]+\])(?P<port>:\d{1,5})?",
    re.IGNORECASE,
)


def _normalised_host(entry: str) -> str:
    match = _ALLOWED_HOST.fullmatch(entry)
    if match is None:
        raise ValueError(
            f"{entry!r} is not a host: give 'host', 'host:port', '*.domain' or '[IPv6 address]'"
        )
    name = httpx.URL(f"http://{match['name']}").netloc.decode("ascii")
    return f"{match['wildcard'] or ''}{name}{match['port'] or ''}"


class ReferencePolicy(BaseModel):
    """What may be fetched on behalf of a client."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_normalised_host)], ...],
        Field(
            description="Hosts that may be reached although their addresses are not public: "
            "`host`, `host:port`, `*.example.org` (any name below it), `[IPv6 address]`."
        ),
    ] = ()
    max_bytes: Annotated[
        int, Field(gt=0, description="Largest content, in bytes, after decompression.")
    ] = 512 * 1024 * 1024
    timeout_seconds: Annotated[
        float, Field(gt=0, description="Longest time for one reference, redirects included.")
    ] = 60.0
    max_redirects: Annotated[
        int, Field(ge=0, description="How many redirects are followed for one reference.")
    ] = 5

    def allows(self, host: str, port: int) -> bool:
        """Tell whether the operator named this host, without a look at its addresses."""
        name = f"[{host}]" if ":" in host else host.lower()
        return any(_is_match(entry, name, port) for entry in self.allow_hosts)


def _is_match(entry: str, name: str, port: int) -> bool:
    entry_name, colon, entry_port = entry.rpartition(":")
    if not colon or not entry_port.isdigit() or entry.endswith("]"):
        entry_name, entry_port = entry, ""
    if entry_port and int(entry_port) != port:
        return False
    if entry_name.startswith("*."):
        return name.endswith(entry_name[1:])
    return name == entry_name


#: The policy in force where none is given: set by whoever runs a job.
current_policy: ContextVar[ReferencePolicy] = ContextVar(
    "pygeoapi_prefect_reference_policy",
    default=ReferencePolicy(),  # noqa: B039 - frozen
)


class Fetched(NamedTuple):
    """What a reference led to.

    Attributes:
        content: The decoded body.
        media_type: What the server says it is, without parameters; None if it does not.
    """

    content: bytes
    media_type: str | None


def resolve_host(host: str, port: int) -> list[str]:
    """Return all addresses of a host, as the system's resolver gives them.

    Raises:
        OSError: The name cannot be resolved.
        UnicodeError: It is no name that could be.
    """
    return _addresses(host, port)


def written_addresses(host: str, port: int) -> list[str]:
    """Return the address that a host itself is, in whatever notation; none for names.

    Nobody is asked: it is a resolver for checks that must not take time.
    """
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761
        return ["127.0.0.1"]
    try:
        return _addresses(host, port, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []


def _addresses(host: str, port: int, flags: int = 0) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def parse_href(href: str) -> httpx.URL:
    """Read a URL as references and callbacks may have it.

    Args:
        href: What the client gave.

    Returns:
        The URL, its host in lower case, IDNA-encoded and without a trailing dot.

    Raises:
        InvalidRequest: It is no absolute http or https URL, or holds credentials.
    """
    shown = f"{href[:80]}…" if len(href) > 80 else href
    try:
        url = httpx.URL(href)
        host = url.raw_host.decode("ascii").rstrip(".")
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise InvalidRequest(f"href {shown!r} is not a URL") from error
    if url.scheme not in _DEFAULT_PORTS or not host:
        raise InvalidRequest(f"href {shown!r} is not an absolute http or https URL")
    if url.userinfo:
        raise InvalidRequest(f"href to {_named(host)}: must not hold a user name or password")
    if url.port is not None and not 0 < url.port < 65536:
        raise InvalidRequest(f"href to {_named(host)}: port {url.port} does not exist")
    return url.copy_with(host=host, fragment=None)


def _named(host: str) -> str:
    return f"{host[:80]}…" if len(host) > 80 else host


def check_address(
    href: str, policy: ReferencePolicy | None = None, *, resolve: Resolver = resolve_host
) -> None:
    """Refuse a URL that would be refused when it comes to the request.

    The answer holds for now only: a name may resolve differently later. `fetch` and
    `post` check again, and connect to what they checked.

    Args:
        href: URL of a callback or of an input.
        policy: By default `current_policy`.
        resolve: Gives the addresses of a host.

    Raises:
        InvalidRequest: The URL is malformed, or its host does not resolve, or not to
            public addresses alone.
    """
    url = parse_href(href)
    _checked_addresses(_host(url), _port(url), policy or current_policy.get(), resolve)


def fetch(
    href: str, policy: ReferencePolicy | None = None, *, resolve: Resolver = resolve_host
) -> Fetched:
    """Return what a URL refers to.

    Args:
        href: http or https URL.
        policy: By default `current_policy`.
        resolve: Gives the addresses of a host.

    Raises:
        InvalidRequest: The URL or its host is refused, or the server does not answer in
            time, or not with success.
        RequestTooLarge: The content has more than ``max_bytes``.
    """
    content = io.BytesIO()
    media_type = fetch_to(href, content, policy, resolve=resolve)
    return Fetched(content.getvalue(), media_type)


def fetch_to(
    href: str,
    file: IO[bytes],
    policy: ReferencePolicy | None = None,
    *,
    resolve: Resolver = resolve_host,
) -> str | None:
    """Write what a URL refers to into a file, and never hold the whole of it in memory.

    Args:
        href: http or https URL.
        file: Open for writing; holds a part of the content where an error is raised.
        policy: By default `current_policy`.
        resolve: Gives the addresses of a host.

    Returns:
        The media type that the server states, without parameters; None if it does not.

    Raises:
        InvalidRequest: The URL or its host is refused, or the server does not answer in
            time, or not with success.
        RequestTooLarge: The content has more than ``max_bytes``.
    """
    policy = policy or current_policy.get()
    url = parse_href(href)
    with _pool(policy, resolve) as pool:
        for _ in range(policy.max_redirects + 1):
            with _answer(pool, "GET", url, policy) as response:
                headers = httpx.Headers(response.headers)
                if response.status in _REDIRECTS and "location" in headers:
                    url = _redirected(url, headers["location"])
                    continue
                _refuse_unless_successful(url, response.status)
                received_bytes = 0
                for chunk in _decoded(response, headers, url, policy):
                    received_bytes += len(chunk)
                    if received_bytes > policy.max_bytes:
                        raise _too_large(url, policy)
                    file.write(chunk)
                return headers.get("content-type", "").partition(";")[0].strip().lower() or None
    raise InvalidRequest(
        f"href to {_named(_host(url))}: more than {policy.max_redirects} redirects"
    )


def post(
    href: str,
    content: bytes,
    media_type: str,
    policy: ReferencePolicy | None = None,
    *,
    resolve: Resolver = resolve_host,
) -> None:
    """Send content to a URL, under the rules of `fetch` but without following redirects.

    Args:
        href: http or https URL, such as that of a subscriber.
        content: Body of the request.
        media_type: Its media type.
        policy: By default `current_policy`.
        resolve: Gives the addresses of a host.

    Raises:
        InvalidRequest: The URL or its host is refused, or the server does not answer in
            time, or not with success.
    """
    policy = policy or current_policy.get()
    url = parse_href(href)
    with (
        _pool(policy, resolve) as pool,
        _answer(pool, "POST", url, policy, content, media_type) as response,
    ):
        _refuse_unless_successful(url, response.status)


# Addresses

_IPV6_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_IPV6_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            # which `is_global` of some Python versions lets through
            "192.0.0.0/24",  # IETF protocol assignments
            "192.88.99.0/24",  # 6to4 relays
            "2001::/23",  # IETF protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)


def is_public(address: str) -> bool:
    """Tell whether an IP address is one that anybody on the internet can reach.

    Raises:
        ValueError: It is not an IP address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped
        if ip in _IPV6_TRANSLATED:
            # with DNS64, all of IPv4 is reached so
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if embedded is not None:
            return is_public(str(embedded))
        if ip.scope_id or ip not in _IPV6_GLOBAL_UNICAST:
            return False
    return (
        ip.is_global
        and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)
        and not any(ip in network for network in _NOT_PUBLIC)
    )


def _checked_addresses(
    host: str, port: int, policy: ReferencePolicy, resolve: Resolver
) -> list[str]:
    try:
        addresses = resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise InvalidRequest(f"href to {_named(host)}: the host cannot be resolved") from error
    if not policy.allows(host, port) and not all(map(is_public, addresses)):
        raise InvalidRequest(
            f"href to {_named(host)}: refused, since it is not a public address; "
            "the operator of this server can allow the host"
        )
    return addresses


# Connections


class _Deadline:
    """The end of the time that one reference has."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining_seconds(self, error: type[httpcore.TimeoutException]) -> float:
        """Return the time that is left.

        Raises:
            TimeoutException: Of the given type; no time is left.
        """
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise error
        return seconds


class _Stream(httpcore.NetworkStream):
    """A connection that ends at a deadline, however slowly its bytes drip."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    @override
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.remaining_seconds(httpcore.ReadTimeout))

    @override
    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.remaining_seconds(httpcore.WriteTimeout))

    @override
    def close(self) -> None:
        self._stream.close()

    @override
    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.remaining_seconds(httpcore.ConnectTimeout)
        stream = self._stream.start_tls(ssl_context, server_hostname, seconds)
        return type(self)(stream, self._deadline)

    @override
    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to addresses that were checked, and to no others.

    URL, `Host` header and TLS server name stay those of the host: the pool that uses
    this backend never learns the address.
    """

    def __init__(self, policy: ReferencePolicy, resolve: Resolver) -> None:
        self._policy = policy
        self._resolve = resolve
        self._deadline = _Deadline(policy.timeout_seconds)
        self._backend = httpcore.SyncBackend()

    @override
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: httpcore.ConnectError | None = None
        for address in _checked_addresses(host, port, self._policy, self._resolve):
            try:
                stream = self._backend.connect_tcp(
                    address,
                    port,
                    self._deadline.remaining_seconds(httpcore.ConnectTimeout),
                    local_address,
                    socket_options,
                )
            except httpcore.ConnectError as error:
                failure = error
            else:
                return _Stream(stream, self._deadline)
        raise failure or httpcore.ConnectError("no address")


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _pool(policy: ReferencePolicy, resolve: Resolver) -> httpcore.ConnectionPool:
    return httpcore.ConnectionPool(
        ssl_context=_tls(), network_backend=_CheckedBackend(policy, resolve)
    )


def _host(url: httpx.URL) -> str:
    # `url.host` has international names in their own script, which resolvers encode anew
    # and not always alike
    return url.raw_host.decode("ascii")


def _port(url: httpx.URL) -> int:
    return url.port or _DEFAULT_PORTS[url.scheme]


@contextlib.contextmanager
def _answer(
    pool: httpcore.ConnectionPool,
    method: str,
    url: httpx.URL,
    policy: ReferencePolicy,
    content: bytes | None = None,
    media_type: str | None = None,
) -> Iterator[httpcore.Response]:
    headers: dict[bytes | str, bytes | str] = {
        "Host": url.netloc.decode("ascii"),
        "User-Agent": "pygeoapi-prefect",
        "Accept": "*/*",
        "Accept-Encoding": "gzip",
    }
    if content is not None and media_type is not None:
        headers |= {"Content-Type": media_type, "Content-Length": str(len(content))}
    target = httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )
    try:
        with pool.stream(method, target, headers=headers, content=content) as response:
            yield response
    except httpcore.TimeoutException as error:
        raise InvalidRequest(
            f"href to {_named(_host(url))}: no complete answer within {policy.timeout_seconds:g} s"
        ) from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise InvalidRequest(f"href to {_named(_host(url))}: the connection failed") from error


def _refuse_unless_successful(url: httpx.URL, status: int) -> None:
    if not 200 <= status < 300:
        raise InvalidRequest(
            f"href to {_named(_host(url))}: the server answered with status {status}"
        )


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return parse_href(str(url.join(location)))
    except httpx.InvalidURL as error:
        raise InvalidRequest(
            f"href to {_named(_host(url))}: redirects to what is not a URL"
        ) from error


def _too_large(url: httpx.URL, policy: ReferencePolicy) -> RequestTooLarge:
    return RequestTooLarge(
        f"href to {_named(_host(url))}: the content has more than {policy.max_bytes} bytes"
    )


def _decoded(
    response: httpcore.Response, headers: httpx.Headers, url: httpx.URL, policy: ReferencePolicy
) -> Iterator[bytes]:
    stated_length = headers.get("content-length", "")
    if stated_length.isdigit() and int(stated_length) > policy.max_bytes:
        raise _too_large(url, policy)
    match headers.get("content-encoding", "identity").strip().lower():
        case "identity" | "":
            yield from response.iter_stream()
        case "gzip" | "x-gzip":
            try:
                yield from _gunzipped(response.iter_stream())
            except (zlib.error, EOFError) as error:
                raise InvalidRequest(
                    f"href to {_named(_host(url))}: the content is broken gzip"
                ) from error
        case _:
            raise InvalidRequest(
                f"href to {_named(_host(url))}: the content has an encoding other than gzip"
            )


def _gunzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress piece by piece, so that a small body cannot fill the memory."""
    decompressor = zlib.decompressobj(wbits=31)
    for chunk in chunks:
        while chunk:
            if decompressor.eof:
                decompressor = zlib.decompressobj(wbits=31)
            yield decompressor.decompress(chunk, _DECODED_CHUNK_BYTES)
            chunk = decompressor.unconsumed_tail or decompressor.unused_data
    if not decompressor.eof:
        raise EOFError("gzip stream ends early")
