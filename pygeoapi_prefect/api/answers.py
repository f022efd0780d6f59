"""Answers of the form that pygeoapi's API layer has: headers, status, body."""

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from pygeoapi.api import API, SYSTEM_LOCALE, apply_gzip
from pygeoapi.formats import F_HTML, F_JSON, FORMAT_TYPES
from pygeoapi.util import json_serial

from pygeoapi_prefect.api.pages import render
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.media_types import JSON_MEDIA_TYPE

Answer = tuple[dict[str, str], int, str | bytes | Iterator[bytes]]

NEGOTIATED_FIELDS: Final = ("Accept", "Accept-Encoding", "Accept-Language", "Prefer")
"""Of requests: what caches have to look at before they answer with what they have."""

OGC_RELATIONS: Final = "http://www.opengis.net/def/rel/ogc/1.0"
HTML_MEDIA_TYPE: Final = FORMAT_TYPES[F_HTML]


def headers_of(
    api: API, request: Request, media_type: str, *, locale: Any = None
) -> dict[str, str]:
    """Return the headers that all answers have.

    Args:
        api: pygeoapi's API.
        request: The request.
        media_type: What the answer is.
        locale: Its language, if it is not the one that this package speaks.
    """
    headers: dict[str, str] = request.get_response_headers(
        locale or SYSTEM_LOCALE, force_type=media_type, **api.api_headers
    )
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Vary"] = ", ".join(NEGOTIATED_FIELDS)
    return headers


def json_answer(
    api: API,
    request: Request,
    document: Mapping[str, Any],
    status: HTTPStatus = HTTPStatus.OK,
    media_type: str = JSON_MEDIA_TYPE,
    *,
    locale: Any = None,
) -> Answer:
    """Return a JSON document.

    Unlike pygeoapi's, it has < and > where the data have them. For the arguments, see
    `headers_of`.
    """
    indent = 4 if api.pretty_print else None
    headers = headers_of(api, request, media_type, locale=locale)
    return headers, status, json.dumps(document, indent=indent, default=json_serial)


def page_answer(
    api: API,
    request: Request,
    template: str,
    data: Mapping[str, Any],
    templates: Mapping[str, Any] | None = None,
) -> Answer:
    """Return a page in pygeoapi's theme.

    Args:
        api: pygeoapi's API.
        request: The request.
        template: Name of the template, such as ``jobs/index.html``.
        data: What the template shows.
        templates: See `pages.render`.
    """
    content, more = render(api, request, template, data, templates)
    headers = headers_of(api, request, HTML_MEDIA_TYPE, locale=request.locale)
    return headers | more, HTTPStatus.OK, content


def finished(request: Request, answer: Answer) -> Answer:
    """Return an answer as it is sent: compressed, or without its body, where that is due."""
    headers, status, content = answer
    if isinstance(content, str):
        content = content.encode()
    if not isinstance(content, bytes) or not content:
        headers.pop("Content-Encoding", None)  # what is streamed goes as it is, and so does nothing
    elif "Content-Encoding" in headers:
        content = apply_gzip(headers, content)
    if isinstance(content, bytes) and status != HTTPStatus.NOT_MODIFIED:
        headers["Content-Length"] = str(len(content))
    if status == HTTPStatus.NO_CONTENT:
        headers.pop("Content-Type", None)
        headers.pop("Content-Length", None)
        content = b""
    if request.method == "HEAD":
        content = b""
    return headers, status, content


def link(
    rel: str, href: str, *, media_type: str = JSON_MEDIA_TYPE, title: str | None = None
) -> dict[str, str]:
    """Return a link (``link.yaml``)."""
    made = {"rel": rel, "type": media_type, "href": href}
    return made if title is None else {**made, "title": title}


def document_links(request: Request, url: str, query: str = "") -> list[dict[str, str]]:
    """Return links to a document in each of its forms (/req/job-list/links and others).

    Args:
        request: The request that is answered: one form is what it asked for.
        url: The document's address.
        query: Its query parameters, without ``f``.
    """
    separator = f"?{query}&" if query else "?"
    html = link("alternate", f"{url}{separator}f={F_HTML}", media_type=HTML_MEDIA_TYPE)
    json_ = link("alternate", f"{url}{separator}f={F_JSON}")
    (html if request.wants_html else json_)["rel"] = "self"
    return [
        {**json_, "title": "This document as JSON"},
        {**html, "title": "This document as HTML"},
    ]
