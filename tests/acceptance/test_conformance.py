"""What the official conformance suite asks for, test by test.

A re-implementation of the 54 tests of ets-ogcapi-processes10 (opengeospatial), named after
them, against both applications and the process ``echo``, with jobs that take seconds. Every
response is held against the schemas of the standard too, also where the suite does not look.
"""

import contextlib
import email.policy
import http.client
import json
import re
from email.parser import BytesParser
from typing import Any

import httpx
import pytest

from .conftest import DEADLINE_SECONDS, Service, eventually
from .ogc import EXCEPTIONS, RESULTS_RELATION, violations

TEXT = "teststring"
AREA = {"bbox": [51.9, 7.0, 52.0, 7.1], "crs": "http://www.opengis.net/def/crs/OGC/1.3/CRS84"}
INPUTS: dict[str, Any] = {"message": TEXT, "document": TEXT, "mixed": TEXT, "area": AREA}
OUTPUTS = {output_id: {"transmissionMode": "value"} for output_id in [*INPUTS, "numbers"]}
ECHO = "/processes/echo"
CORE = "http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/core"


def parts_of(response: httpx.Response) -> dict[str, Any]:
    """The parts of a ``multipart/related`` response by output id."""
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message: Any = BytesParser(policy=email.policy.HTTP).parsebytes(head + response.content)
    assert message.get_content_type() == "multipart/related"
    assert message.defects == []
    return {part["Content-ID"].strip("<>"): part for part in message.iter_parts()}


@pytest.fixture(scope="module")
def description(service: Service) -> dict[str, Any]:
    answer: dict[str, Any] = service.client.get(ECHO).json()
    return answer


# Several tests look at one and the same answer: it takes a job


@pytest.fixture(scope="module")
def by_default(service: Service) -> httpx.Response:
    """The answer to a request that names inputs alone."""
    return service.execute("echo", INPUTS)


@pytest.fixture(scope="module")
def with_outputs(service: Service) -> httpx.Response:
    """The answer to a request that names all outputs too."""
    return service.execute("echo", INPUTS, outputs=OUTPUTS)


@pytest.fixture(scope="module")
def accepted(service: Service) -> httpx.Response:
    """The answer to an asynchronous request."""
    return service.execute("echo", INPUTS, prefer="respond-async")


@pytest.fixture(scope="module")
def job(service: Service) -> str:
    """The path of an asynchronous job with all outputs."""
    return service.submit("echo", INPUTS, outputs=OUTPUTS)


# Core: general, landing page, conformance


def test_http(service: Service) -> None:
    assert service.client.get("/").http_version == "HTTP/1.1"


def test_landing_page_retrieval(service: Service) -> None:
    assert service.client.get("/").status_code == 200


def test_landing_page_validation(service: Service) -> None:
    relations = {link["rel"] for link in service.client.get("/").json()["links"]}

    assert {"service-desc", "service-doc", "conformance"} <= relations
    assert any(relation.endswith("/processes") for relation in relations)


def test_validate_conformance_operation_and_response(service: Service) -> None:
    response = service.client.get("/conformance")

    assert response.status_code == 200
    assert CORE in response.json()["conformsTo"]


# Core: process list, process


def test_pl_limit_definition(service: Service) -> None:
    document = service.client.get("/openapi").json()
    limit = document["components"]["parameters"]["limit"]

    assert {"$ref": "#/components/parameters/limit"} in document["paths"]["/processes"]["get"][
        "parameters"
    ]
    assert (limit["in"], limit.get("required", False)) == ("query", False)
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 10}


def test_pl_limit_response(service: Service) -> None:
    assert len(service.client.get("/processes", params={"limit": 1}).json()["processes"]) == 1


def test_pl_links(service: Service) -> None:
    links = service.client.get("/processes", params={"limit": 1}).json()["links"]

    types = {link["rel"]: link["type"] for link in links}
    assert (types["self"], types["alternate"]) == ("application/json", "text/html")


def test_process_list(service: Service) -> None:
    assert len(service.client.get("/processes").json()["processes"]) >= 1


def test_process_list_success(service: Service) -> None:
    response = service.client.get("/processes")

    assert response.status_code == 200
    assert violations(response.json(), "processList") == []


def test_process(service: Service) -> None:
    assert service.client.get(ECHO).status_code == 200


def test_process_success(description: dict[str, Any]) -> None:
    assert violations(description, "process") == []


def test_process_exception_no_such_process(service: Service) -> None:
    response = service.client.get("/processes/there-is-none")

    assert response.status_code == 404
    assert response.json()["type"] == f"{EXCEPTIONS}/no-such-process"


# Core: creation of jobs


def test_job_creation_auto_execution_mode(accepted: httpx.Response) -> None:
    assert accepted.status_code == 201


def test_job_creation_default_execution_mode(with_outputs: httpx.Response) -> None:
    assert with_outputs.status_code == 200


def test_job_creation_default_outputs(by_default: httpx.Response) -> None:
    assert by_default.status_code == 200
    assert parts_of(by_default).keys() == INPUTS.keys()


def test_job_creation_input_array(service: Service) -> None:
    wishes: list[dict[str, Any]] = [{"numbers": {}}, {}]
    for outputs in wishes:
        inputs = {"message": TEXT, "numbers": [1, 2, 3]}
        assert service.execute("echo", inputs, outputs=outputs).status_code == 200


def test_job_creation_input_inline_bbox(service: Service) -> None:
    response = service.execute("echo", INPUTS, outputs={"area": {}})

    assert response.status_code == 200
    assert response.json() == AREA


def test_job_creation_input_inline_binary(service: Service) -> None:
    inputs = {"message": TEXT, "document": {"value": TEXT, "mediaType": "text/markdown"}}

    assert service.execute("echo", inputs, outputs={"document": {}}).text == TEXT


def test_job_creation_input_inline_mixed(service: Service) -> None:
    for value in (TEXT, 3.5, False):
        response = service.execute("echo", {"message": "", "mixed": value}, outputs={"mixed": {}})
        assert response.json() == value


def test_job_creation_input_inline_object(service: Service) -> None:
    inputs = {"message": TEXT, "area": {"value": AREA}}

    assert service.execute("echo", inputs, outputs={"area": {}}).json() == AREA


def test_job_creation_input_inline(with_outputs: httpx.Response) -> None:
    assert with_outputs.status_code == 200


def test_job_creation_input_ref(with_outputs: httpx.Response) -> None:
    assert with_outputs.status_code == 200
    parts = parts_of(with_outputs).values()
    text = [part for part in parts if part.get_content_maintype() == "text"]
    assert [part.get_content().strip() for part in text] == [TEXT, TEXT]


def test_job_creation_input_validation(service: Service, with_outputs: httpx.Response) -> None:
    assert with_outputs.status_code == 200

    wrong = INPUTS | {"document": {"type": "wrong/type_1"}}
    response = service.execute("echo", wrong, outputs=OUTPUTS)

    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert "document" in response.json()["detail"]


def test_job_creation_inputs(by_default: httpx.Response) -> None:
    assert by_default.status_code == 200


def test_job_creation_op(service: Service) -> None:
    # as the suite does: with a blank behind, which httpx would not send, ...
    server = http.client.HTTPConnection(service.url.removeprefix("http://"))
    body = json.dumps({"inputs": INPUTS, "outputs": OUTPUTS})
    server.request("POST", f"{ECHO}/execution", body, {"Prefer": "respond-async "})
    with contextlib.closing(server):
        response = server.getresponse()

    assert response.status == 201
    # ... and without an Accept field
    status = httpx.get(str(response.headers["location"]), timeout=DEADLINE_SECONDS)
    assert violations(status.json(), "statusInfo") == []


def test_job_creation_request(service: Service, job: str) -> None:
    assert violations(service.client.get(job).json(), "statusInfo") == []


def test_job_creation_success_async(service: Service, accepted: httpx.Response) -> None:
    assert accepted.headers["Preference-Applied"] == "respond-async"
    document = accepted.json()
    status = service.client.get(service.path_of(accepted.headers["location"])).json()
    assert document["jobID"] == document["id"] == status["jobID"]
    assert document["processID"] == "echo"
    assert document["created"] == status["created"]


def test_job_creation_sync_document(service: Service) -> None:
    response = service.execute("echo", INPUTS, response="document")

    assert response.status_code == 200
    document = response.json()
    assert violations(document, "results") == []
    assert document["message"] == TEXT
    assert document["document"] == {"value": TEXT, "mediaType": "text/markdown"}
    assert document["mixed"] == TEXT
    assert document["area"]["value"] == AREA


def test_job_creation_sync_raw_mixed_multi(service: Service) -> None:
    outputs: dict[str, Any] = {"message": {}, "document": {"transmissionMode": "reference"}}

    response = service.execute("echo", INPUTS, response="raw", outputs=outputs)

    assert response.status_code == 200
    parts = parts_of(response)
    assert parts["message"].get_content().strip() == TEXT
    assert parts["document"].get_content().strip() == ""
    location = parts["document"]["Content-Location"]
    assert service.client.get(service.path_of(location)).text == TEXT


def test_job_creation_sync_raw_ref(service: Service) -> None:
    outputs = {"message": {"transmissionMode": "reference"}}

    response = service.execute("echo", INPUTS, response="raw", outputs=outputs)

    assert response.status_code == 204
    assert response.content == b""
    (link,) = response.links.values()
    assert service.client.get(service.path_of(link["url"])).text == TEXT


def test_job_creation_sync_raw_value_multi(service: Service) -> None:
    response = service.execute("echo", INPUTS, response="raw", outputs=OUTPUTS)

    assert response.status_code == 200
    parts = parts_of(response)
    assert {name: part.get_content_type() for name, part in parts.items()} == {
        "numbers": "application/json",
        "message": "text/plain",
        "document": "text/markdown",
        "mixed": "application/json",
        "area": "application/json",
    }
    assert json.loads(parts["area"].get_payload(decode=True)) == AREA


def test_job_creation_sync_raw_value_one(service: Service) -> None:
    response = service.execute(
        "echo",
        {"message": TEXT},
        response="raw",
        outputs={"message": {"transmissionMode": "value"}},
    )

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain"
    assert response.text == TEXT


# Core: jobs


def test_job_exception_no_such_job(service: Service) -> None:
    response = service.client.get("/jobs/invalid-job-1")

    assert response.status_code == 404
    assert response.json()["type"] == f"{EXCEPTIONS}/no-such-job"


def test_job_op(by_default: httpx.Response) -> None:
    assert by_default.status_code == 200


def test_job_results_no_such_job(service: Service) -> None:
    response = service.client.get("/jobs/invalid-job-1/results")

    assert response.status_code == 404
    assert response.json()["type"] == f"{EXCEPTIONS}/no-such-job"


def test_job_results_exception_results_not_ready(service: Service) -> None:
    job = service.submit("echo", {"message": TEXT, "pause": 300})

    response = service.client.get(f"{job}/results")

    assert response.status_code == 404
    assert response.json()["type"] == f"{EXCEPTIONS}/result-not-ready"
    assert service.client.delete(job).json()["status"] == "dismissed"


def test_job_results_failed(service: Service) -> None:
    response = service.client.post(f"{ECHO}/execution", json={"invalid-execute-request": "true)"})

    assert response.status_code == 400
    assert response.json()["type"]


def test_job_results(service: Service, job: str) -> None:
    response = service.client.get(job)
    assert response.status_code == 200
    assert violations(response.json(), "statusInfo") == []


def results_of(service: Service, **request: Any) -> httpx.Response:
    """The results of an asynchronous job, found as clients find them."""
    job = service.submit("echo", INPUTS, **request)
    status = service.ended(job)
    (url,) = [link["href"] for link in status["links"] if link["rel"] == RESULTS_RELATION]
    return httpx.get(url, timeout=DEADLINE_SECONDS)


def test_job_results_async_document(service: Service) -> None:
    response = results_of(service, response="document")

    assert response.headers["content-type"].startswith("application/json")
    assert violations(response.json(), "results") == []
    assert response.json()["message"] == TEXT


def test_job_results_async_raw_mixed_multi(service: Service) -> None:
    outputs: dict[str, Any] = {"message": {"transmissionMode": "reference"}, "document": {}}

    parts = parts_of(results_of(service, outputs=outputs))

    assert parts["document"].get_content().strip() == TEXT
    assert httpx.get(parts["message"]["Content-Location"], timeout=DEADLINE_SECONDS).text == TEXT


def test_job_results_async_raw_ref(service: Service) -> None:
    response = results_of(service, outputs={"message": {"transmissionMode": "reference"}})

    assert response.status_code == 204
    (link,) = response.links.values()
    assert httpx.get(link["url"], timeout=DEADLINE_SECONDS).text == TEXT


@pytest.mark.parametrize(
    ("mode", "headers"),
    [("reference", {}), (None, {"Prefer": "return=minimal"})],
)
def test_several_outputs_by_reference_are_links_alone(
    service: Service, mode: str | None, headers: dict[str, str]
) -> None:
    # /req/core/process-execute-sync-raw-ref is about "1 or more outputs"
    wish = {} if mode is None else {"transmissionMode": mode}
    body = {"inputs": INPUTS, "outputs": {"message": wish, "document": wish}}

    executed = service.client.post(f"{ECHO}/execution", json=body, headers=headers)
    job = service.submit("echo", INPUTS, outputs=body["outputs"])
    service.ended(job)
    later = service.client.get(f"{job}/results", headers=headers)

    for response in (executed, later):
        assert (response.status_code, response.content) == (204, b"")
        links = re.findall(
            r'<([^>]+)>; rel="item"; type="([^"]+)"; title="([^"]+)"', response.headers["link"]
        )
        assert {title: media_type for _, media_type, title in links} == {
            "message": "text/plain",
            "document": "text/markdown",
        }
        for url, _, _ in links:
            assert service.client.get(service.path_of(url)).text == TEXT


def test_job_results_async_raw_value_multi(service: Service) -> None:
    assert parts_of(results_of(service, outputs=OUTPUTS)).keys() == OUTPUTS.keys()


def test_job_results_async_raw_value_one(service: Service) -> None:
    job = service.submit("echo", {"message": TEXT}, outputs={"message": {}})

    def look() -> str | None:
        links = service.client.get(job).json()["links"]
        return next((link["href"] for link in links if link["rel"] == RESULTS_RELATION), None)

    assert httpx.get(eventually(look), timeout=DEADLINE_SECONDS).text == TEXT


def test_job_results_sync(by_default: httpx.Response) -> None:
    # the suite fails on the link that the requirement asks for; it is an option
    assert "link" not in by_default.headers


def test_job_success(service: Service, job: str) -> None:
    # as the suite does, without an Accept field
    status = httpx.get(f"{service.url}{job}", timeout=DEADLINE_SECONDS).json()

    assert violations(status, "statusInfo") == []
    relations = {link["rel"] for link in status["links"]}
    assert {"self", "alternate", "monitor", "up"} <= relations


# OGC process description


def test_ogc_process_description_json(service: Service) -> None:
    for process in service.client.get("/processes").json()["processes"]:
        response = service.client.get(f"/processes/{process['id']}")
        assert violations(response.json(), "process") == []


def test_ogc_process_description_inputs_def(description: dict[str, Any]) -> None:
    assert description["inputs"]


def test_ogc_process_description_input_def(description: dict[str, Any]) -> None:
    assert all("schema" in one for one in description["inputs"].values())


def test_ogc_process_description_input_definition_of_mixed_type(
    description: dict[str, Any],
) -> None:
    assert any("oneOf" in one["schema"] for one in description["inputs"].values())


def test_ogc_process_description_outputs_def(description: dict[str, Any]) -> None:
    assert description["outputs"]


def test_ogc_process_description_output_def(description: dict[str, Any]) -> None:
    assert all("schema" in one for one in description["outputs"].values())


def test_ogc_process_description_output_definition_of_mixed_type(
    description: dict[str, Any],
) -> None:
    assert any("oneOf" in one["schema"] for one in description["outputs"].values())


# Job list


def test_job_list(service: Service) -> None:
    assert service.execute("echo", INPUTS).status_code == 200

    assert len(service.client.get("/jobs").json()["jobs"]) >= 1


def test_job_list_success(service: Service) -> None:
    service.submit("echo", {"message": TEXT, "pause": 1})

    response = service.client.get("/jobs")

    assert response.status_code == 200
    assert violations(response.json(), "jobList") == []
    assert re.search("null", response.text) is None
