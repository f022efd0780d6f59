"""Errors as RFC 7807 problems."""

import json
from typing import Any

import pytest

from pygeoapi_prefect.api import routes
from pygeoapi_prefect.errors import BackendUnavailable, JobNotFound

from .conftest import Service, make_request


def answered(service: Service, error: Exception, *headers: tuple[str, str]) -> Any:
    def fail(*_: Any) -> Any:
        raise error

    request = make_request("flask", service.api.locales, "/jobs/a%20b", headers=headers)
    return routes.answer(service.api, request, routes.Route("GET", "/jobs/{job_id}", fail), {})


def test_a_problem_has_the_members_of_rfc_7807_and_those_of_pygeoapi(service: Service) -> None:
    headers, status, content = answered(service, JobNotFound("there is no job a b"))

    assert (status, headers["Content-Type"]) == (404, "application/json")
    assert json.loads(content) == {
        "type": "http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0/no-such-job",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no job a b",
        "instance": "/jobs/a%20b",
        "code": "no-such-job",
        "description": "there is no job a b",
    }


def test_who_asks_for_a_problem_gets_one(service: Service) -> None:
    accept = ("Accept", "application/problem+json, application/json;q=0.5")

    headers, _, _ = answered(service, JobNotFound("x"), accept)

    assert headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_who_comes_while_prefect_is_down_is_told_to_come_again(
    service: Service, accept: str
) -> None:
    headers, status, _ = answered(service, BackendUnavailable("down"), ("Accept", accept))

    assert status == 503
    assert int(headers["Retry-After"]) > 0


def test_browsers_get_a_page(service: Service) -> None:
    error = JobNotFound("there is no job <b>")

    headers, status, content = answered(service, error, ("Accept", "text/html"))

    assert (status, headers["Content-Type"]) == (404, "text/html")
    assert b"there is no job" in content
    assert b"<b>" not in content


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_what_nobody_has_foreseen_is_logged_and_not_told(
    service: Service, accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = KeyError("/srv/secret")

    headers, status, content = answered(service, error, ("Accept", accept))

    assert (status, headers["Content-Type"]) == (500, "application/json")
    assert b"secret" not in content
    assert "secret" in caplog.text


@pytest.mark.parametrize("path", ["/", "/openapi", "/processes", "/processes/table", "/jobs"])
@pytest.mark.parametrize("form", ["xml", "png", "mvt"])
def test_a_format_that_is_unknown_is_refused(service: Service, path: str, form: str) -> None:
    answer = service.send("GET", f"{path}?f={form}")

    assert answer.status == 400
    assert answer.json["detail"].startswith("f: must be one of json, html")


def test_only_the_landing_page_is_linked_data_too(service: Service) -> None:
    landing = service.send("GET", "/?f=jsonld")

    assert landing.headers["Content-Type"] == "application/ld+json"
    assert landing.json["@type"] == "DataCatalog"
    assert service.send("GET", "/jobs?f=jsonld").status == 400
