"""pygeoapi's Starlette application with our routes in front.

``pygeoapi_prefect.api.starlette_app:APP``; as for pygeoapi's own, ``PYGEOAPI_CONFIG`` and
``PYGEOAPI_OPENAPI`` must be set on import.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

from pygeoapi import starlette_app as pygeoapi_starlette_app
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pygeoapi_prefect.api import routes
from pygeoapi_prefect.api.answers import Answer, finished
from pygeoapi_prefect.api.problems import error_answer, status_answer
from pygeoapi_prefect.api.request import Request, too_large
from pygeoapi_prefect.api.service import manager_of, origin, prepare
from pygeoapi_prefect.errors import PygeoapiPrefectError

_API = pygeoapi_starlette_app.api_


def _response(answer: Answer) -> Response:
    headers, status, content = answer
    if isinstance(content, str | bytes):
        return Response(content, int(status), headers)
    return StreamingResponse(content, int(status), headers)


class _OwnHost:
    """Middleware that takes requests for ones to our own host; see `service.origin`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._scheme, self._host = origin(_API)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "scheme": self._scheme, "headers": [*scope["headers"]]}
            MutableHeaders(scope=scope)["host"] = self._host
        await self._app(scope, receive, send)


class _BodyLimit:
    """Middleware that hands on no more of a body than a limit: who reads on gets our error.

    Args:
        app: What it is in front of.
        limit: How many bytes.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        announced = int(length) if length.isdecimal() else 0
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            if announced <= self._limit:
                message = await receive()
                received += len(message.get("body", b""))
                if received <= self._limit:
                    return message
            raise too_large(self._limit)

        await self._app(scope, receive_within_limit, send)


def _endpoint(route: routes.Route) -> Callable[[StarletteRequest], Awaitable[Response]]:
    async def endpoint(request: StarletteRequest) -> Response:
        ours = Request(request, _API.locales, await request.body())
        # jobs that clients wait for must not hold up the event loop
        return _response(
            await asyncio.get_running_loop().run_in_executor(
                None, routes.answer, _API, ours, route, request.path_params
            )
        )

    return endpoint


async def _answer_http_error(request: StarletteRequest, error: Exception) -> Response:
    """Answer what Starlette itself refuses: no such page, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101  registered for it only
    if request.method == "OPTIONS" and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return Response(status_code=HTTPStatus.OK, headers=error.headers)  # as Flask does
    ours = Request(request, _API.locales, b"")
    answer = status_answer(_API, ours, HTTPStatus(error.status_code), error.detail)
    response = _response(finished(ours, answer))
    response.headers.update(error.headers or {})
    return response


async def _answer_error(request: StarletteRequest, error: Exception) -> Response:
    """Answer what functions of pygeoapi raise."""
    ours = Request(request, _API.locales, b"")
    if isinstance(error, PygeoapiPrefectError):
        return _response(finished(ours, error_answer(_API, ours, error)))
    return _response(finished(ours, routes.unexpected_answer(_API, ours)))


def _extended_app() -> Starlette:
    prepare(_API)
    app: Starlette = pygeoapi_starlette_app.APP
    for middleware in app.user_middleware:
        if cast(Any, middleware.cls) is CORSMiddleware:
            # pygeoapi's lets other sites' pages send nothing but forms
            middleware.kwargs["allow_headers"] = ["*"]
    limit = manager_of(_API).configuration.max_request_bytes
    app.user_middleware.insert(0, Middleware(_OwnHost))  # outermost: others redirect too
    # innermost: what it raises has an answer like any other error
    app.user_middleware.append(Middleware(_BodyLimit, limit=limit))
    prefix = pygeoapi_starlette_app.url_prefix
    app.router.routes[:0] = [
        Route(f"{prefix}{route.path}", _endpoint(route), methods=[route.method])
        for route in routes.ROUTES
    ]
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(PygeoapiPrefectError, _answer_error)
    app.add_exception_handler(Exception, _answer_error)
    return app


APP = _extended_app()
