"""What a client asks for, as the functions of this package read it."""

import copy
import dataclasses
import datetime as dt
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pygeoapi import l10n
from pygeoapi.api import APIRequest
from pygeoapi.formats import F_HTML, F_JSON, F_JSONLD, FORMAT_TYPES
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_list_header, parse_options_header

from pygeoapi_prefect.dialect import cut
from pygeoapi_prefect.errors import InvalidParameter, RequestTooLarge
from pygeoapi_prefect.schemas import ReturnPreference

LIMIT_DEFAULT: Final = 10
LIMIT_MAX: Final = 10_000
MAX_INTEGER: Final = 2**31 - 1
IDENTITY: Final = "identity"
"""The content coding that is none."""

_DATE: Final = r"\d{4}-\d{2}-\d{2}"
_DATE_TIME = re.compile(rf"{_DATE}[Tt ]\d{{2}}:\d{{2}}:\d{{2}}(\.\d+)?([Zz]|[+-]\d{{2}}:\d{{2}})")
_ONE_DATE = re.compile(_DATE)
_ONE_NUMBER = re.compile(r"\d{1,12}(\.\d{1,12})?")


class Request(APIRequest):
    """A request as pygeoapi's API layer takes it, with what pygeoapi drops.

    Args:
        request: The request of Flask or Starlette.
        locales: The languages of the service.
        body: The body of the request.

    Attributes:
        method: The HTTP method.
        path: The path of the request, as part of an address.
        parameters: The query parameters, repeated ones too, in their order; `params` has the
            first of each.
    """

    def __init__(self, request: Any, locales: Sequence[Any], body: bytes) -> None:
        self._fields: dict[str, str] = {}
        for name, value in request.headers.items():
            name = name.lower()
            earlier = self._fields.get(name)
            self._fields[name] = value if earlier is None else f"{earlier}, {value}"
        self.parameters = _parameters_of(request)
        super().__init__(request, locales)  # type: ignore[no-untyped-call]
        self._data = body
        self.method: str = request.method
        path = request.scope["path"] if hasattr(request, "scope") else request.path
        self.path = urllib.parse.quote(path)

    def field(self, name: str) -> str:
        """Return a header field, its lines joined; empty where there is none."""
        return self._fields.get(name.lower(), "")

    def as_json(self) -> "Request":
        """Return the same request from a client that wants JSON."""
        other = copy.copy(self)
        other._format = F_JSON  # noqa: SLF001  another one of these
        return other

    @staticmethod
    def _get_params(request: Any) -> dict[str, str]:
        # of a parameter that is there twice, the frameworks do not have the same one
        params: dict[str, str] = {}
        for name, value in _parameters_of(request):
            params.setdefault(name, value)
        return params

    @property
    def is_declared_as_json(self) -> bool:
        """Whether the body is JSON by what the client says, or by what it need not say.

        Browsers let any page send forms and plain text here, and bodies without a type, but
        JSON only where this service allows it (CORS). They are known by ``Origin``, which they
        send with all that pages post.
        """
        media_type = parse_options_header(self.field("content-type"))[0].lower()
        if not media_type:
            return not self.field("origin")
        return media_type == FORMAT_TYPES[F_JSON] or media_type.endswith("+json")

    @property
    def content_codings(self) -> set[str]:
        """In what the body is packed, by what the client says (RFC 9110, section 8.4)."""
        codings = parse_list_header(self.field("content-encoding"))
        return {coding.lower() for coding in codings} - {IDENTITY}

    @property
    def accept(self) -> MIMEAccept:
        """The media types that the client accepts, best first."""
        return parse_accept_header(self.field("accept"), MIMEAccept)

    @property
    def wants_html(self) -> bool:
        """Whether the client is best served with a page."""
        return bool(self.format == F_HTML)

    def _get_format(self, *_: Any) -> str | None:
        # pygeoapi divides by the quality, and fails where it is zero or no number
        if format_ := str(self._args.get("f") or "").strip():
            return format_
        known = {FORMAT_TYPES[name]: name for name in (F_HTML, F_JSON, F_JSONLD)}
        for media_type, quality in self.accept:
            if quality > 0 and media_type in known:
                return str(known[media_type])
        return None

    def _get_locale(self, headers: Any, supported_locales: Any) -> tuple[Any, Any]:
        try:
            found: tuple[Any, Any] = super()._get_locale(headers, supported_locales)
        except (ValueError, ZeroDivisionError):  # as above
            default = l10n.str2locale(supported_locales[0])
            found = str(default), default
        return found

    def strings(self, name: str) -> list[str]:
        """Return the values of a parameter that may be repeated, or list them with commas."""
        values = (
            item for key, value in self.parameters if key == name for item in value.split(",")
        )
        return [value.strip() for value in values if value.strip()]

    def one_of_each(self, name: str, known: Iterable[str]) -> list[str]:
        """Return the values of such a parameter. Raises `InvalidParameter` for others."""
        known = list(known)
        values = self.strings(name)
        if unknown := [value for value in values if value not in known]:
            raise InvalidParameter(
                f"{name}: {unknown[0]!r} is none of {', '.join(known)}; several are separated "
                "by commas"
            )
        return values

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Raise `InvalidParameter` where the query has other parameters, such as misspelt ones."""
        known = list(known)
        for name, _ in self.parameters:
            if name not in known:
                raise InvalidParameter(
                    f"unknown query parameter {cut(name, 80)!r}; known: {', '.join(known)}"
                )

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        """Return a parameter that is a whole number. Larger ones count as `maximum`."""
        text = self.params.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,100}", text) or int(text) < minimum:
            raise InvalidParameter(f"{name}: must be a whole number, {minimum} or more")
        return min(int(text), maximum)

    def limit(self, limits: dict[str, Any] | None) -> int:
        """Return how long a page is: ``limit``, or what the configuration has as default.

        Args:
            limits: ``server.limits`` of the configuration.
        """
        limits = limits or {}
        maximum = min(int(limits.get("max_items", LIMIT_MAX)), LIMIT_MAX)
        default = min(int(limits.get("default_items", LIMIT_DEFAULT)), maximum)
        return self.integer("limit", default, minimum=1, maximum=maximum)

    def offset(self) -> int:
        """Return where a page starts."""
        return self.integer("offset", 0, minimum=0, maximum=MAX_INTEGER)

    def durations(self, name: str) -> list[float]:
        """Return a parameter that lists numbers of seconds, 0 or more; version 2.0 has one."""
        if name not in self.params:
            return []
        texts = self.strings(name)
        if not texts or not all(map(_ONE_NUMBER.fullmatch, texts)):
            raise InvalidParameter(
                f"{name}: must be a number of seconds, 0 or more; several are separated by commas"
            )
        # as datetime goes: nothing has run for longer than a century
        return [min(float(text), 3.2e9) for text in texts]

    def interval(self, name: str) -> tuple[dt.datetime | None, dt.datetime | None]:
        """Return a parameter that is a time or an interval, as first and last moment.

        Source: /req/job-list/datetime-definition; a date stands for the whole day, and times
        are as exact as those in responses, which end with milliseconds.
        """
        text = self.params.get(name)
        if text is None:
            return None, None
        ends = text.split("/")
        if len(ends) == 1:
            return _moment(name, text, is_end=False), _moment(name, text, is_end=True)
        if len(ends) != 2 or set(ends) <= {"", ".."}:
            raise InvalidParameter(
                f"{name}: an interval is written as start/end, start/.. or ../end"
            )
        start, end = (None if text in ("", "..") else text for text in ends)
        first = start and _moment(name, start, is_end=False)
        last = end and _moment(name, end, is_end=True)
        if first and last and first > last:
            raise InvalidParameter(f"{name}: the interval ends before it starts")
        return first or None, last or None

    def preferences(self) -> "Preferences":
        """Return what the ``Prefer`` fields say."""
        return Preferences.of(self.field("prefer"))


def too_large(limit: int) -> RequestTooLarge:
    """Return the error that a body of more bytes than a limit is."""
    return RequestTooLarge(f"the body is over {limit} bytes, which is all that this server takes")


def _parameters_of(request: Any) -> list[tuple[str, str]]:
    if hasattr(request, "args"):
        return [*request.args.items(multi=True)]
    return [*request.query_params.multi_items()]


def _moment(name: str, text: str, *, is_end: bool) -> dt.datetime:
    try:
        if _ONE_DATE.fullmatch(text):
            day = dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
            return day + dt.timedelta(days=1, microseconds=-1) if is_end else day
        if _DATE_TIME.fullmatch(text):
            time = dt.datetime.fromisoformat(text.upper()).astimezone(dt.UTC)
            return time + dt.timedelta(microseconds=999) if is_end else time
    except (ValueError, OverflowError):
        pass  # a month 13, or a day after the last one that there is
    raise InvalidParameter(
        f"{name}: {text[:40]!r} is no time as RFC 3339 has it, such as 2030-01-31T12:00:00Z"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preferences:
    """What a client prefers (RFC 7240). What is not understood is left out, as the RFC says.

    Attributes:
        respond_async: Whether it wants an answer before the job has ended.
        wait_seconds: How long it waits at most.
        returns: Whether it wants values or links.
    """

    respond_async: bool = False
    wait_seconds: int | None = None
    returns: ReturnPreference | None = None

    @classmethod
    def of(cls, fields: str) -> "Preferences":
        """Read ``Prefer`` fields; of a preference given twice, the first counts."""
        values: dict[str, str] = {}
        for item in parse_list_header(fields):
            name, _, value = item.partition(";")[0].partition("=")
            values.setdefault(name.strip().lower(), value.strip().strip('"').lower())
        wait, returns = values.get("wait", ""), values.get("return", "")
        return cls(
            respond_async=values.get("respond-async") == "",
            wait_seconds=int(wait) if re.fullmatch(r"[0-9]{1,9}", wait) else None,
            returns=ReturnPreference(returns) if returns in (*ReturnPreference,) else None,
        )
