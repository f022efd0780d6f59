"""The part of the OpenAPI document that describes processes and jobs (/req/oas30/...).

pygeoapi generates a document that knows its own routes: no parameters for ``/jobs``, other
status codes, and references to schemas elsewhere. `complete` makes it one of our routes,
that refers to itself alone.
"""

import copy
import functools
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final

import yaml

from pygeoapi_prefect.api.logs import LIMIT_DEFAULT as LOG_LIMIT_DEFAULT
from pygeoapi_prefect.api.problems import PROBLEM_MEDIA_TYPE
from pygeoapi_prefect.api.request import LIMIT_DEFAULT, LIMIT_MAX
from pygeoapi_prefect.flows import in_default_language
from pygeoapi_prefect.jobs import JOB_TYPE
from pygeoapi_prefect.logs import PAGE_MAX_LINES as LOG_LIMIT_MAX

Json = dict[str, Any]

_SCHEMAS: Final = "#/components/schemas"
_RESPONSES: Final = "#/components/responses"
_LOG_SCHEMA: Final = "jobLog"

_PROCESS_PATH = re.compile(r"/processes/([^/]+)(/execution)?")

# What pygeoapi's document refers to elsewhere, and where it is here.
_ELSEWHERE: Final = (
    ("/responses/NotFound.yaml", f"{_RESPONSES}/NotFound"),
    ("/responses/ServerError.yaml", f"{_RESPONSES}/ServerError"),
    ("/schemas/exception.yaml", f"{_SCHEMAS}/exception"),
    ("ogcapi-features-1.yaml#/components/responses/LandingPage", f"{_RESPONSES}/LandingPage"),
    ("ogcapi-features-1.yaml#/components/responses/InvalidParameter", f"{_RESPONSES}/BadRequest"),
    ("ogcapi-features-1.yaml#/components/responses/ServerError", f"{_RESPONSES}/ServerError"),
)


def complete(document: Mapping[str, Any]) -> Json:
    """Return pygeoapi's OpenAPI document with processes and jobs as this package has them."""
    completed: Json = copy.deepcopy(dict(document))
    components = completed.setdefault("components", {})
    for kind, ours in (
        ("schemas", {**ogc_schemas(), _LOG_SCHEMA: _job_log_schema()}),
        ("parameters", _parameters()),
        ("responses", _responses()),
    ):
        components[kind] = {**components.get(kind, {}), **ours}
    paths = completed["paths"]
    for path, operations in paths.items():
        _describe_process(path, operations)
    paths.pop("/jobs/{jobId}", None)
    paths.pop("/jobs/{jobId}/results", None)
    paths.update(_paths())
    # pygeoapi names all that it could have, and each would be an empty section of the page
    used = {tag for operations in paths.values() for tag in _tags(operations)}
    completed["tags"] = [tag for tag in completed.get("tags", ()) if tag["name"] in used]
    localised: Json = _localised(completed)
    return localised


def is_complete(document: Any) -> bool:
    """Tell whether `complete` has made a document: others are their authors' affair."""
    return isinstance(document, Mapping) and _LOG_SCHEMA in (
        (document.get("components") or {}).get("schemas") or {}
    )


def with_processes(document: Mapping[str, Any], processes: Mapping[str, Mapping[str, Any]]) -> Json:
    """Return a document that `complete` has made, as it is with other processes.

    Args:
        document: The document.
        processes: The descriptions of all processes, by id.
    """
    described = {match[1] for path in document["paths"] if (match := _PROCESS_PATH.fullmatch(path))}
    gone = described - processes.keys()
    # as pygeoapi has it, those whose ids begin with an underscore are not shown
    new = [one for one in processes if one not in described and not one.startswith("_")]
    paths = {
        path: operations
        for path, operations in document["paths"].items()
        if not ((match := _PROCESS_PATH.fullmatch(path)) and match[1] in gone)
    }
    for process_id in new:
        paths |= _process_paths(process_id, processes[process_id])
    tags = [tag for tag in document.get("tags", ()) if tag["name"] not in gone]
    for process_id in new:
        text = in_default_language(processes[process_id]["description"])
        tags.append({"name": process_id, "description": text})
    return {**document, "paths": paths, "tags": tags}


def _process_paths(process_id: str, description: Mapping[str, Any]) -> Json:
    """Return the paths of a process, as `complete` makes them of pygeoapi's."""
    text = in_default_language(description["description"])
    title = in_default_language(description["title"])
    # which pygeoapi has capitalised
    name = process_id.capitalize()
    paths: Json = {
        f"/processes/{process_id}": {
            "get": {
                "summary": "Get process metadata",
                "description": text,
                "tags": [process_id],
                "operationId": f"describe{name}Process",
            }
        },
        f"/processes/{process_id}/execution": {
            "post": {
                "summary": f"Process {title} execution",
                "description": text,
                "tags": [process_id],
                "operationId": f"execute{name}Job",
                "requestBody": {"required": True, "content": {"application/json": {}}},
            }
        },
    }
    for path, operations in paths.items():
        _describe_process(path, operations)
    return paths


@functools.cache
def ogc_schemas() -> Json:
    """Return the schemas of the standard by name, referring to each other.

    What is wrong in them is corrected, as clients validate responses with them:

    - defaults that are lists where a text is meant, and a required member that does not exist;
    - ``oneOf`` between a text and base64, or a number and an integer, which no text and no
      integer can satisfy;
    - ``statusInfo`` has the members that version 2.0 adds, and ``exception`` those of ours.
    """
    folder = resources.files(__package__) / "ogc"
    schemas: Json = {
        file.name.removesuffix(".yaml"): yaml.safe_load(file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    }
    schemas = _with_local_references(schemas)
    schemas["execute"]["properties"]["response"]["default"] = "raw"
    schemas["transmissionMode"]["default"] = "value"
    schemas["subscriber"]["required"] = ["successUri"]
    for name in ("inlineOrRefData", "inputValue", "inputValueNoObject"):
        schemas[name]["anyOf"] = schemas[name].pop("oneOf")
    inputs = schemas["execute"]["properties"]["inputs"]["additionalProperties"]
    inputs["anyOf"] = inputs.pop("oneOf")
    schemas["statusInfo"]["properties"] |= {
        "id": {"type": "string"},
        "exception": {"$ref": f"{_SCHEMAS}/exception"},
    }
    schemas["exception"]["properties"]["errors"] = {
        "type": "array",
        "description": "What is wrong with an execute request, where that is several things",
        "items": {
            "type": "object",
            "required": ["pointer", "detail"],
            "properties": {
                "pointer": {
                    "type": "string",
                    "description": "Where in the request (RFC 6901), such as `/inputs/name`",
                },
                "detail": {"type": "string"},
            },
        },
    }
    schemas["jobList"]["properties"] |= {
        "numberMatched": {
            "type": "integer",
            "minimum": 0,
            "description": "Left out where jobs are chosen by duration.",
        },
        "numberReturned": {"type": "integer", "minimum": 0},
    }
    return schemas


def _job_log_schema() -> Json:
    line = {
        "type": "object",
        "required": ["id", "timestamp", "level", "message"],
        "properties": {
            "id": {
                "type": "string",
                "description": "Lines of the last seconds are in the next page again, with this",
            },
            "timestamp": {"type": "string", "format": "date-time"},
            "level": {"type": "string", "example": "INFO"},
            "message": {"type": "string"},
            "task": {"type": "string", "description": "The task that wrote the line"},
        },
    }
    return {
        "type": "object",
        "required": ["jobID", "logs", "hasMore", "complete", "links"],
        "properties": {
            "jobID": {"type": "string"},
            "logs": {"type": "array", "items": line},
            "hasMore": {"type": "boolean", "description": "Whether the next page has lines now"},
            "complete": {"type": "boolean", "description": "Whether no line can come any more"},
            "links": {"type": "array", "items": {"$ref": f"{_SCHEMAS}/link"}},
        },
    }


def _with_local_references(value: Any) -> Any:
    match value:
        case {"$ref": str() as reference}:
            return {"$ref": f"{_SCHEMAS}/{reference.removesuffix('.yaml')}"}
        case dict():
            return {name: _with_local_references(member) for name, member in value.items()}
        case list():
            return [_with_local_references(item) for item in value]
    return value


def _localised(value: Any) -> Any:
    """Return a document that refers to itself where it referred to what it has."""
    match value:
        case {"$ref": str() as reference}:
            for ending, ours in _ELSEWHERE:
                if reference.endswith(ending):
                    return {"$ref": ours}
            return value
        case dict():
            return {name: _localised(member) for name, member in value.items()}
        case list():
            return [_localised(item) for item in value]
    return value


def _refs(kind: str, *names: str) -> list[Json]:
    return [{"$ref": f"#/components/{kind}/{name}"} for name in names]


_ERRORS: Final = {
    "400": ("BadRequest", "The request is not understood, or does not fit"),
    "403": ("Forbidden", "This server does not show that"),
    "404": ("NotFound", "There is no such thing"),
    "410": ("Gone", "The job was dismissed, and has no results"),
    "413": ("TooLarge", "The request is too large"),
    "415": ("UnsupportedMediaType", "The request is not declared to be JSON, or is compressed"),
    "416": ("RangeNotSatisfiable", "The result has no such bytes"),
    "500": ("ServerError", "The job failed, or the server did"),
    "503": ("Unavailable", "The server behind this one does not answer; try again later"),
}


def _answers(success: str, *errors: str) -> Json:
    responses: Json = {"200": {"$ref": f"{_RESPONSES}/{success}"}}
    for status in sorted({*errors, "503"}):
        responses[status] = {"$ref": f"{_RESPONSES}/{_ERRORS[status][0]}"}
    return responses


def _parameters() -> Json:
    return {
        "f": _query(
            "f",
            "Form of the response; by default what the `Accept` field says, or JSON",
            {"type": "string", "enum": ["json", "html"]},
        ),
        "resultsForm": _query(
            "f",
            "`json` for several outputs in one document, or `html`; by default what the `Accept` "
            "field says if that is `html`, or the form that the execute request has asked for",
            {"type": "string", "enum": ["json", "html"]},
        ),
        "lang": _query(
            "lang",
            "Language of texts, as in `en-US`",
            {"type": "string", "pattern": "^[a-z]{2}(-[A-Z]{2})?$"},
        ),
        "limit": _query(
            "limit",
            "How many items the response has at most",
            {
                "type": "integer",
                "minimum": 1,
                "maximum": LIMIT_MAX,
                "default": LIMIT_DEFAULT,
            },
        ),
        "offset": _query(
            "offset",
            "Where the response starts; follow links (`next`, `prev`, `first`), do not count",
            {"type": "integer", "minimum": 0, "default": 0},
        ),
        "jobType": _list_query("type", "Type of the jobs", {"type": "string", "enum": [JOB_TYPE]}),
        "processID": _list_query(
            "processID", "Processes of the jobs", {"type": "string", "minLength": 1}
        ),
        "status": _list_query("status", "Statuses of the jobs", {"$ref": f"{_SCHEMAS}/statusCode"}),
        "datetime": _query(
            "datetime",
            "When the jobs were created: an RFC 3339 time or date, or an interval of two, one of "
            "which may be `..`, as in `2030-01-01T00:00:00Z/..`",
            {"type": "string", "example": "2030-01-01T00:00:00Z/.."},
        ),
        "minDuration": _list_query(
            "minDuration",
            "How many seconds the jobs ran, or have been running, at least",
            {"type": "integer", "minimum": 0},
        ),
        "maxDuration": _list_query(
            "maxDuration",
            "How many seconds the jobs ran, or have been running, at most",
            {"type": "integer", "minimum": 0},
        ),
        "prefer": {
            "name": "Prefer",
            "in": "header",
            "description": "RFC 7240: `respond-async` for an answer before the job has ended, "
            "`wait=10` to wait so many seconds for its end at most, `return=minimal` for links "
            "instead of values, `return=representation`; several are separated by commas",
            "schema": {"type": "string", "example": "respond-async, wait=10"},
        },
        "returnPreference": {
            "name": "Prefer",
            "in": "header",
            "description": "RFC 7240: `return=minimal` for links instead of values, or "
            "`return=representation`",
            "schema": {"type": "string", "example": "return=minimal"},
        },
        "range": {
            "name": "Range",
            "in": "header",
            "description": "Which bytes of the result to return, as in `bytes=0-1023`",
            "schema": {"type": "string", "example": "bytes=0-1023"},
        },
        "logLimit": _query(
            "limit",
            "How many lines the response has at most",
            {
                "type": "integer",
                "minimum": 1,
                "maximum": LOG_LIMIT_MAX,
                "default": LOG_LIMIT_DEFAULT,
            },
        ),
        "logAfter": _query(
            "after",
            "Where the response starts, as a `next` link has it; by default at the beginning",
            {"type": "string", "pattern": "^[0-9]{1,17}-[0-9]{1,9}$"},
        ),
        "jobId": _path_parameter("jobId", "Id of the job"),
        "outputId": _path_parameter("outputId", "Id of the output"),
    }


def _query(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _list_query(name: str, description: str, items: Json) -> Json:
    return {
        **_query(name, f"{description}; any of several", {"type": "array", "items": items}),
        "style": "form",
        "explode": False,
    }


def _path_parameter(name: str, description: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
    }


def _header(description: str) -> Json:
    return {"description": description, "schema": {"type": "string"}}


def _document(description: str, schema: str) -> Json:
    return {
        "description": description,
        "content": {
            "application/json": {"schema": {"$ref": f"{_SCHEMAS}/{schema}"}},
            "text/html": {"schema": {"type": "string"}},
        },
    }


def _responses() -> Json:
    problem = {"schema": {"$ref": f"{_SCHEMAS}/exception"}}
    errors = {
        name: {
            "description": description,
            "content": {
                "application/json": problem,
                PROBLEM_MEDIA_TYPE: problem,
                "text/html": {"schema": {"type": "string"}},
            },
        }
        for name, description in _ERRORS.values()
    }
    errors["Unavailable"]["headers"] = {"Retry-After": _header("In how many seconds to try again")}
    errors["UnsupportedMediaType"]["headers"] = {
        "Accept": _header("What it has to be, if it is not declared to be that"),
        "Accept-Encoding": _header("`identity` where it is compressed"),
    }
    errors["RangeNotSatisfiable"] = {
        "description": _ERRORS["416"][1],
        "headers": {"Content-Range": _header("How many bytes it has")},
        "content": {"*/*": {}},
    }
    return {
        **errors,
        "LandingPage": _document("The landing page", "landingPage"),
        "ConformanceClasses": _document("What the service conforms to", "confClasses"),
        "ProcessList": _document("A page of processes", "processList"),
        "ProcessDescription": _document("The description of the process", "process"),
        "JobList": _document("A page of jobs, newest first", "jobList"),
        "JobLog": {
            "description": "A page of the log",
            "headers": {"Link": _header("With `text/plain`: the next page (RFC 8288)")},
            "content": {
                "application/json": {"schema": {"$ref": f"{_SCHEMAS}/jobLog"}},
                "text/html": {"schema": {"type": "string"}},
                "text/plain": {"schema": {"type": "string"}},
            },
        },
        "StatusInfo": _document("The status of the job", "statusInfo"),
        "Dismissed": _document(
            "The job was dismissed; one that had ended was removed with its results", "statusInfo"
        ),
        "Accepted": {
            "description": "The job goes on; its status is at the `Location`",
            "headers": {
                "Location": _header("Address of the job"),
                "Preference-Applied": _header("Which preferences were met (RFC 7240)"),
            },
            "content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}/statusInfo"}}},
        },
        "Results": {
            "description": "The results: the value of the one output, or several as "
            "`multipart/related`, or all as one document (`results.yaml`)",
            "headers": {
                "Preference-Applied": _header("Which preferences were met (RFC 7240)"),
                "Accept-Ranges": _header("`bytes` where parts of it can be asked for"),
            },
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [
                            {"$ref": f"{_SCHEMAS}/results"},
                            {"description": "the output as its description has it"},
                        ]
                    }
                },
                "text/html": {"schema": {"type": "string"}},
                "multipart/related": {"schema": {"type": "string"}},
                "*/*": {},
            },
        },
        "PartOfResults": {
            "description": "The bytes that were asked for",
            "headers": {"Content-Range": _header("Which bytes they are, of how many")},
            "content": {"*/*": {}},
        },
        "References": {
            "description": "Links to the outputs",
            "headers": {"Link": _header("Where the outputs are (RFC 8288)")},
        },
        "NotModified": {"description": "The output that the client has is still the right one"},
    }


def _describe_process(path: str, operations: Json) -> None:
    """Describe parameters and answers of a path, if it is one of a process."""
    match = _PROCESS_PATH.fullmatch(path)
    if match is None:
        return
    if match[2]:
        _describe_execution(operations["post"])
        return
    operations["get"]["parameters"] = _refs("parameters", "f", "lang")
    operations["get"]["responses"] = _answers("ProcessDescription", "400", "404", "500")


def _describe_execution(operation: Json) -> None:
    operation["parameters"] = _refs("parameters", "prefer")
    operation["responses"] = {
        **_answers("Results", "400", "404", "410", "413", "415", "500"),
        "201": {"$ref": f"{_RESPONSES}/Accepted"},
        "204": {"$ref": f"{_RESPONSES}/References"},
    }
    content = operation["requestBody"]["content"]["application/json"]
    content["schema"] = {"$ref": f"{_SCHEMAS}/execute"}
    operation["callbacks"] = _callbacks()


def _tags(operations: Json) -> set[str]:
    """Return the tags of the operations of a path, beside which it may have parameters."""
    methods = (one for one in operations.values() if isinstance(one, dict))
    return {tag for operation in methods for tag in operation.get("tags", ())}


def _callbacks() -> Json:
    """Return what subscribers are sent (/req/callback/job-callback)."""

    def request(summary: str, schema: str) -> Json:
        return {
            "post": {
                "summary": summary,
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}/{schema}"}}}
                },
                "responses": {
                    "2XX": {"description": "Received; with any other answer it is sent again"}
                },
            }
        }

    address = "{$request.body#/subscriber/%s}"
    return {
        "jobCompleted": {address % "successUri": request("Results of the job", "results")},
        "jobInProgress": {address % "inProgressUri": request("The job runs", "statusInfo")},
        "jobFailed": {
            address % "failedUri": request("The job failed or was dismissed", "statusInfo")
        },
    }


def _paths() -> Json:
    results = {
        "204": {"$ref": f"{_RESPONSES}/References"},
        "206": {"$ref": f"{_RESPONSES}/PartOfResults"},
    }
    job_errors = ("400", "404", "500")
    result_errors = (*job_errors, "410", "416")
    return {
        "/conformance": {
            "get": _operation(
                "getConformanceDeclaration",
                "API conformance definition",
                "server",
                _refs("parameters", "f", "lang"),
                _answers("ConformanceClasses", "400", "500"),
            )
        },
        "/processes": {
            "get": _operation(
                "getProcesses",
                "Processes",
                "processes",
                _refs("parameters", "limit", "offset", "f", "lang"),
                _answers("ProcessList", "400", "500"),
            )
        },
        "/jobs": {
            "get": _operation(
                "getJobs",
                "Jobs, newest first",
                "jobs",
                _refs(
                    "parameters",
                    *("jobType", "processID", "status", "datetime", "minDuration", "maxDuration"),
                    *("limit", "offset", "f", "lang"),
                ),
                _answers("JobList", "400", "500"),
            )
        },
        "/jobs/{jobId}": {
            "parameters": _refs("parameters", "jobId"),
            "get": _operation(
                "getJob",
                "Status of a job",
                "jobs",
                _refs("parameters", "f", "lang"),
                _answers("StatusInfo", *job_errors),
            ),
            "delete": _operation(
                "deleteJob",
                "Dismiss a job that goes on, or remove one that has ended",
                "jobs",
                [],
                _answers("Dismissed", *job_errors),
            ),
        },
        "/jobs/{jobId}/results": {
            "parameters": _refs("parameters", "jobId"),
            "get": _operation(
                "getJobResults",
                "Results of a job, as its request asked for them",
                "jobs",
                _refs("parameters", "resultsForm", "returnPreference", "range"),
                {**_answers("Results", *result_errors), **results},
            ),
        },
        "/jobs/{jobId}/logs": {
            "parameters": _refs("parameters", "jobId"),
            "get": _operation(
                "getJobLogs",
                "Log of a job, oldest lines first; its `next` link follows a running job",
                "jobs",
                _refs("parameters", "logLimit", "logAfter", "f", "lang"),
                _answers("JobLog", *job_errors, "403"),
            ),
        },
        "/jobs/{jobId}/results/{outputId}": {
            "parameters": _refs("parameters", "jobId", "outputId"),
            "get": _operation(
                "getJobOutput",
                "One output of a job, as it was stored",
                "jobs",
                _refs("parameters", "range"),
                {
                    **_answers("Results", *result_errors),
                    "206": results["206"],
                    "304": {"$ref": f"{_RESPONSES}/NotModified"},
                },
            ),
        },
    }


def _operation(
    operation_id: str, summary: str, tag: str, parameters: Iterable[Json], responses: Json
) -> Json:
    return {
        "operationId": operation_id,
        "summary": summary,
        "tags": [tag],
        "parameters": [*parameters],
        "responses": responses,
    }
