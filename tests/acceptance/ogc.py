"""Responses, held against the schemas of the standard and not against what we print."""

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from openapi_schema_validator import OAS30Validator, oas30_format_checker
from referencing import Registry
from referencing.jsonschema import DRAFT4

import pygeoapi_prefect

SCHEMAS: Final = Path(pygeoapi_prefect.__file__).parent / "api" / "ogc"

EXCEPTIONS: Final = "http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0"
RESULTS_RELATION: Final = "http://www.opengis.net/def/rel/ogc/1.0/results"

# `oneOf` between a text and base64, or a number and an integer, which hardly any value meets
AMBIGUOUS: Final = ("inlineOrRefData", "inputValue", "inputValueNoObject")

_SCHEMA_OF_PATH: Final = (
    ("GET", r"/", "landingPage"),
    ("GET", r"/conformance", "confClasses"),
    ("GET", r"/processes", "processList"),
    ("GET", r"/processes/[^/]+", "process"),
    ("GET", r"/jobs", "jobList"),
    ("GET", r"/jobs/[^/]+", "statusInfo"),
    ("DELETE", r"/jobs/[^/]+", "statusInfo"),
)


@cache
def _registry() -> Registry[Any]:
    resources = {}
    for path in SCHEMAS.glob("*.yaml"):
        schema = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem in AMBIGUOUS:
            schema["anyOf"] = schema.pop("oneOf")
        resources[path.name] = DRAFT4.create_resource(schema)
    return Registry().with_resources(resources.items())


def violations(document: Any, schema: str) -> list[str]:
    """What a document has that a schema of the standard does not allow."""
    validator = OAS30Validator(
        {"$ref": f"{schema}.yaml"}, registry=_registry(), format_checker=oas30_format_checker
    )
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def schema_of(response: httpx.Response) -> str | None:
    """The schema for the body of a response; None where the standard leaves that open."""
    if response.is_error:
        return "exception"
    request = response.request
    if response.status_code == httpx.codes.CREATED:
        return "statusInfo"
    for method, path, schema in _SCHEMA_OF_PATH:
        if request.method == method and re.fullmatch(path, request.url.path):
            return schema
    return None


def check(response: httpx.Response) -> None:
    """Fail where a response is not as the standard has it: a hook of `httpx.Client`."""
    assert "None" not in response.headers.get("content-type", "")
    schema = schema_of(response)
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if schema is None or response.request.method == "HEAD" or media_type == "text/html":
        return
    response.read()
    if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        return
    assert media_type in ("application/json", "application/problem+json")
    assert violations(response.json(), schema) == []
