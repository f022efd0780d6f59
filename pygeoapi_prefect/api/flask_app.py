"""pygeoapi's Flask application with our routes in front: ``pygeoapi_prefect.api.flask_app:APP``.

As for pygeoapi's own, ``PYGEOAPI_CONFIG`` and ``PYGEOAPI_OPENAPI`` must be set on import.
"""

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import flask
from flask import Blueprint, Flask
from flask_cors import CORS
from pygeoapi import flask_app as pygeoapi_flask_app
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from pygeoapi_prefect.api import routes
from pygeoapi_prefect.api.answers import Answer, finished
from pygeoapi_prefect.api.problems import error_answer, status_answer
from pygeoapi_prefect.api.request import Request, too_large
from pygeoapi_prefect.api.service import manager_of, origin, prepare
from pygeoapi_prefect.errors import PygeoapiPrefectError

_API = pygeoapi_flask_app.api_


def _request(body: bytes = b"") -> Request:
    return Request(flask.request, _API.locales, body)


def _response(answer: Answer) -> flask.Response:
    headers, status, content = answer
    if isinstance(content, bytes):
        # Flask counts the length of bytes, which is not that of an answer to HEAD
        content = iter([content])
    response = flask.Response(content, int(status), headers)
    if "Content-Type" not in headers:
        del response.headers["Content-Type"]  # Flask thinks of HTML even where nothing comes
    return response


def _view(route: routes.Route) -> Callable[..., flask.Response]:
    def view(**parameters: Any) -> flask.Response:
        body = flask.request.get_data()
        return _response(routes.answer(_API, _request(body), route, parameters))

    return view


def _answer_http_error(error: HTTPException) -> flask.Response:
    """Answer what Flask itself refuses: no such page, no such method."""
    request = _request()
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    answer = status_answer(_API, request, status, error.description or error.name)
    response = _response(finished(request, answer))
    if allowed := error.get_response().headers.get("Allow"):
        response.headers["Allow"] = allowed
    return response


def _answer_too_large(_: RequestEntityTooLarge) -> flask.Response:
    request, limit = _request(), flask.current_app.config["MAX_CONTENT_LENGTH"]
    return _response(finished(request, error_answer(_API, request, too_large(limit))))


def _answer_error(error: Exception) -> flask.Response:
    """Answer what functions of pygeoapi raise."""
    request = _request()
    if isinstance(error, PygeoapiPrefectError):
        return _response(finished(request, error_answer(_API, request, error)))
    flask.current_app.logger.exception("%s %s failed", request.method, request.path)
    return _response(finished(request, routes.unexpected_answer(_API, request)))


def _at_own_host(app: WSGIApplication) -> WSGIApplication:
    scheme, host = origin(_API)

    def at_own_host(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return app({**environ, "wsgi.url_scheme": scheme, "HTTP_HOST": host}, start_response)

    return at_own_host


def _make_app() -> Flask:
    prepare(_API)
    theirs = pygeoapi_flask_app.APP
    app = Flask(
        pygeoapi_flask_app.__name__,
        static_folder=theirs.static_folder,
        static_url_path=theirs.static_url_path,
    )
    app.config.update(theirs.config)
    # also under servers that have no limit of their own
    app.config["MAX_CONTENT_LENGTH"] = manager_of(_API).configuration.max_request_bytes
    app.url_map.strict_slashes = theirs.url_map.strict_slashes
    if pygeoapi_flask_app.CONFIG["server"].get("cors", False):
        CORS(app, expose_headers="*")
    blueprint = Blueprint(
        "pygeoapi_prefect",
        __name__,
        url_prefix=pygeoapi_flask_app.API_RULES.get_url_prefix("flask"),
    )
    for route in routes.ROUTES:
        blueprint.add_url_rule(
            re.sub(r"{(\w+)(?::(\w+))?}", _flask_variable, route.path),
            endpoint=f"{route.method} {route.path}".replace(".", " "),
            view_func=_view(route),
            methods=[route.method],
        )
    app.register_blueprint(blueprint)
    app.register_blueprint(pygeoapi_flask_app.BLUEPRINT)
    if pygeoapi_flask_app.CONFIG["server"].get("admin"):
        app.register_blueprint(pygeoapi_flask_app.ADMIN_BLUEPRINT)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(RequestEntityTooLarge, _answer_too_large)
    app.register_error_handler(Exception, _answer_error)
    # as Flask would have it: its class has a method there, for which mypy takes it
    app.wsgi_app = _at_own_host(app.wsgi_app)  # type: ignore[assignment,method-assign]
    return app


def _flask_variable(match: re.Match[str]) -> str:
    name, converter = match.groups()
    return f"<{converter}:{name}>" if converter else f"<{name}>"


APP = _make_app()
