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
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pygeoapi_prefect.api import routes
from pygeoapi_prefect.api.answers import Answer, finished
from pygeoapi_prefect.api.problems import error_answer, status_answer
from pygeoapi_prefect.api.request import MAX_BODY_BYTES, Request
from pygeoapi_prefect.api.service import prepare
from pygeoapi_prefect.errors import PygeoapiPrefectError, RequestTooLarge

_API = pygeoapi_starlette_app.api_


def _response(answer: Answer) -> Response:
    headers, status, content = answer
    if isinstance(content, str | bytes):
        return Response(content, int(status), headers)
    return StreamingResponse(content, int(status), headers)


async def _body(request: StarletteRequest) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLarge(f"the body is over {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _endpoint(
    function: Callable[..., Answer],
) -> Callable[[StarletteRequest], Awaitable[Response]]:
    async def endpoint(request: StarletteRequest) -> Response:
        ours = Request(request, _API.locales, await _body(request))
        # jobs that clients wait for must not hold up the event loop
        return _response(
            await asyncio.get_running_loop().run_in_executor(
                None, routes.answer, _API, ours, function, request.path_params
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
    prefix = pygeoapi_starlette_app.url_prefix
    app.router.routes[:0] = [
        Route(f"{prefix}{route.path}", _endpoint(route.function), methods=[route.method])
        for route in routes.ROUTES
    ]
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(PygeoapiPrefectError, _answer_error)
    app.add_exception_handler(Exception, _answer_error)
    return app


APP = _extended_app()
