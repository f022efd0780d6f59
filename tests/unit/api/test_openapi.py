"""The OpenAPI document, the schemas in it, and what the service says it conforms to."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_spec_validator import OpenAPIV30SpecValidator

import pygeoapi_prefect
from pygeoapi_prefect.api import routes
from pygeoapi_prefect.api.openapi import ogc_schemas, with_processes
from pygeoapi_prefect.webserver import read_configuration, write_openapi_document

from .conftest import REPOSITORY, Service

ECHO_EXECUTION = ("POST", "/processes/echo/execution")
OURS = Path(pygeoapi_prefect.__file__).parent / "api" / "ogc"
THEIRS = REPOSITORY.parent / "shared" / "ogc" / "schemas"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("openapi")
    configuration = read_configuration(REPOSITORY / "pygeoapi-config.yml")
    write_openapi_document(configuration, folder / "openapi.yml")
    content: dict[str, Any] = yaml.safe_load((folder / "openapi.yml").read_text())
    return content


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert [error.message for error in OpenAPIV30SpecValidator(document).iter_errors()] == []


def test_the_document_refers_to_itself_alone(document: dict[str, Any]) -> None:
    references = set(re.findall(r"\$ref: ['\"]?([^'\"\s]+)", yaml.safe_dump(document)))

    assert references
    assert all(reference.startswith("#/") for reference in references)
    for reference in references:
        part: Any = document
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]


def operations(document: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {
        (method.upper(), re.sub(r"{\w+}", "{}", path)): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in ("get", "post", "delete")
    }


def test_every_route_is_described(document: dict[str, Any]) -> None:
    described = operations(document)
    pages = ("/pygeoapi-prefect/{name:path}",)  # what pages are made of is no part of the API

    for route in routes.ROUTES:
        if route.path in pages:
            continue
        path = route.path.replace("{process_id}", "echo")
        assert (route.method, re.sub(r"{[^}]+}", "{}", path)) in described


def test_there_is_no_tag_without_operation(document: dict[str, Any]) -> None:
    used = {tag for one in operations(document).values() for tag in one["tags"]}

    assert {"server", "processes", "jobs"} <= {tag["name"] for tag in document["tags"]} <= used


def test_a_page_that_would_need_other_servers_is_ours(service: Service) -> None:
    answer = service.send("GET", "/openapi?f=html&ui=redoc")

    assert b"swagger-ui-bundle.js" in answer.body
    assert "script-src 'self';" in answer.headers["Content-Security-Policy"]


def test_every_operation_tells_its_errors(document: dict[str, Any]) -> None:
    for (_, path), operation in operations(document).items():
        if path.startswith(("/jobs", "/processes")):
            assert {"400", "500", "503"} <= operation["responses"].keys()
            if "{}" in path or path.count("/") > 1:
                assert "404" in operation["responses"]
            if path.endswith("/execution"):
                assert {"413", "415"} <= operation["responses"].keys()


def parameters_of(document: dict[str, Any], path: str) -> set[str]:
    return {
        document["components"]["parameters"][reference["$ref"].rpartition("/")[2]]["name"]
        for reference in document["paths"][path]["get"]["parameters"]
    }


@pytest.mark.parametrize("path", ["/jobs", "/jobs/{jobId}/logs"])
def test_what_is_described_is_all_that_is_known(document: dict[str, Any], path: str) -> None:
    (known,) = (
        one.query_parameters for one in routes.ROUTES if one.path == path.replace("Id", "_id")
    )

    assert known is not None
    assert parameters_of(document, path) == {*known, *routes.COMMON_QUERY_PARAMETERS}


def test_the_list_of_jobs_has_all_parameters_of_the_standard(document: dict[str, Any]) -> None:
    assert parameters_of(document, "/jobs") >= {
        *("type", "processID", "status", "datetime", "minDuration", "maxDuration", "limit")
    }


@pytest.mark.parametrize("name", ["minDuration", "maxDuration"])
def test_durations_are_lists_as_version_1_0_has_them(document: dict[str, Any], name: str) -> None:
    parameter = document["components"]["parameters"][name]

    assert parameter["schema"] == {"type": "array", "items": {"type": "integer", "minimum": 0}}
    assert (parameter["style"], parameter["explode"]) == ("form", False)


@pytest.mark.parametrize("language", ["en", "en-US"])
def test_a_language_may_have_a_country(document: dict[str, Any], language: str) -> None:
    pattern = document["components"]["parameters"]["lang"]["schema"]["pattern"]

    assert re.search(pattern, language)


def test_processes_that_come_and_go_are_described_and_are_not(document: dict[str, Any]) -> None:
    new = {"id": "count.main", "title": {"en": "Count"}, "description": "Counts."}

    changed = with_processes(document, {"new": new, "_hidden": new})

    paths = changed["paths"]
    assert [path for path in paths if path.startswith("/processes/")] == [
        "/processes/new",
        "/processes/new/execution",
    ]
    assert [error.message for error in OpenAPIV30SpecValidator(changed).iter_errors()] == []
    ours, theirs = paths["/processes/new/execution"]["post"], operations(document)[ECHO_EXECUTION]
    assert ours["summary"] == "Process Count execution"
    assert ours["responses"] == theirs["responses"]
    assert ours["callbacks"] == theirs["callbacks"]
    assert {"name": "new", "description": "Counts."} in changed["tags"]
    assert "echo" not in [tag["name"] for tag in changed["tags"]]

    kept = dict.fromkeys(("echo", "new"), new)
    echo = with_processes(document, kept)["paths"]["/processes/echo"]
    assert echo is document["paths"]["/processes/echo"]


def test_the_service_has_the_document_of_the_processes_that_it_has_now(
    service: Service, document: dict[str, Any]
) -> None:
    service.api.openapi = document
    service.manager.processes["new"] = {"type": "process", "processor": {"name": "HelloWorld"}}
    service.manager.processes["gone"] = {"type": "process", "processor": {"name": "no.Such"}}

    answer = service.send("GET", "/openapi")

    assert answer.headers["Content-Type"] == "application/vnd.oai.openapi+json;version=3.0"
    assert "/processes/new/execution" in answer.json["paths"]
    assert "/processes/gone/execution" not in answer.json["paths"]
    assert "/processes/new/execution" not in document["paths"]


def test_a_document_of_others_is_left_as_it_is(service: Service) -> None:
    service.api.openapi = {
        "info": {"description": "a < b &lt; c"},
        "paths": {"/processes/x": {}},
        "components": {"schemas": {}},
    }

    assert service.send("GET", "/openapi").json == service.api.openapi


def test_the_schemas_are_those_of_the_standard() -> None:
    if not THEIRS.is_dir():
        pytest.skip(f"needs the schemas as they were published, in {THEIRS}")

    assert {path.name: path.read_text() for path in OURS.glob("*.yaml")} == {
        path.name: path.read_text() for path in THEIRS.glob("*.yaml")
    }


def test_schemas_in_the_document_have_no_list_for_a_default() -> None:
    schemas = ogc_schemas()

    assert schemas["execute"]["properties"]["response"]["default"] == "raw"
    assert schemas["transmissionMode"]["default"] == "value"
    assert schemas["subscriber"]["required"] == ["successUri"]


def test_the_service_says_what_it_conforms_to(service: Service) -> None:
    classes = service.send("GET", "/conformance").json["conformsTo"]

    ours = {one for one in classes if "/ogcapi-processes-1/" in one}
    names = {one.rpartition("/")[2] for one in ours}
    assert names >= {"core", "ogc-process-description", "json", "oas30", "job-list", "dismiss"}
    assert any("ogcapi-common" in one for one in classes)
    assert classes == sorted(set(classes))
