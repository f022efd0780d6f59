"""Execution of processes: what is asked for, and what comes of it."""

import gzip
from typing import Any

import pytest

from pygeoapi_prefect.api.execution import parsed_request
from pygeoapi_prefect.api.problems import problem_of
from pygeoapi_prefect.errors import Flaw, InvalidRequest

from .conftest import FRAMEWORKS, URL, Service, Table

EXECUTION = "/processes/table/execution"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"inputs=1",
        b"[]",
        b"null",
        b'"{}"',
        b"[" * 100_000,
        b'{"inputs": ' * 5_000 + b"{}" + b"}" * 5_000,
        b'{"inputs": {"fail": NaN}}',
        b'{"inputs": {"fail": "\\ud800"}}',
        b"\xff\xfe{}",
        b'{"subscriber": "http://example.org"}',
        b'{"subscriber": {"inProgressUri": "http://example.org"}}',
        b'{"subscriber": {"successUri": "http://example.org", "failedUri": 5}}',
    ],
)
def test_a_body_that_is_no_execute_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parsed_request(body)


def test_a_byte_order_mark_is_ignored() -> None:
    assert parsed_request('\ufeff{"inputs": {"a": 1}}'.encode())["inputs"] == {"a": 1}


@pytest.mark.parametrize(
    "members",
    [
        {"inputs": []},
        {"inputs": {"unknown": 1}},
        {"outputs": {"unknown": {}}},
        {"outputs": {"note": {"transmissionMode": "pigeon"}}},
        {"response": "bogus"},
        {"response": ["raw"]},
        {"inputs": {"fail": 1e999}},
    ],
)
def test_a_request_that_does_not_fit_makes_no_job(service: Service, members: Any) -> None:
    answer = service.send("POST", EXECUTION, members)

    assert answer.status == 400
    assert answer.json["code"] == "InvalidParameterValue"
    assert service.gateway.runs == {}


def test_each_thing_that_is_wrong_is_told_with_its_place(service: Service) -> None:
    members = {"inputs": {"fail": 5, "fial": ""}, "outputs": {"note": {"format": "odd"}}}

    answer = service.send("POST", EXECUTION, members)

    problem = answer.json
    assert [(one["pointer"], one["detail"]) for one in problem["errors"]] == [
        ("/inputs", "unknown input 'fial' (did you mean 'fail'?)"),
        ("/inputs/fail", "5 is not of type string"),
    ]
    assert problem["detail"] == (
        "unknown input 'fial' (did you mean 'fail'?); input 'fail': 5 is not of type string"
    )
    of_outputs = service.send("POST", EXECUTION, {"outputs": members["outputs"]}).json["errors"]
    assert [one["pointer"] for one in of_outputs] == ["/outputs/note"]


def test_a_place_is_a_json_pointer() -> None:
    error = InvalidRequest("x", [Flaw(("inputs", "a/b~c"), "no", "input 'a/b~c': no")])

    assert problem_of(error, "")["errors"] == [{"pointer": "/inputs/a~1b~0c", "detail": "no"}]


ORIGIN = {"Origin": "https://elsewhere.example"}


@pytest.mark.parametrize("service", FRAMEWORKS, indirect=True)
@pytest.mark.parametrize(
    "headers",
    [
        # what a page may send to any service without asking it first
        {"Content-Type": "text/plain", **ORIGIN},
        {"Content-Type": "multipart/form-data; boundary=x", **ORIGIN},
        {"Content-Type": "text/plain; charset=application/json", **ORIGIN},
        ORIGIN,
        # what curl has by default
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain, application/json"},
    ],
)
def test_what_is_not_declared_to_be_json_makes_no_job(
    service: Service, headers: dict[str, str]
) -> None:
    answer = service.send("POST", EXECUTION, {}, headers)

    assert answer.status == 415
    assert "-H 'Content-Type: application/json'" in answer.json["detail"]
    assert answer.headers["Accept"] == "application/json"
    assert "Accept-Encoding" not in answer.headers
    assert service.gateway.runs == {}


@pytest.mark.parametrize("service", FRAMEWORKS, indirect=True)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/json"},
        {"Content-Type": "Application/JSON; charset=utf-8", **ORIGIN},
        {"Content-Type": "application/geo+json", **ORIGIN},
    ],
)
def test_what_is_json_or_says_nothing_is_taken(service: Service, headers: dict[str, str]) -> None:
    assert service.send("POST", EXECUTION, {}, headers).status == 200


@pytest.mark.parametrize("service", FRAMEWORKS, indirect=True)
def test_a_compressed_body_is_refused_and_makes_no_job(service: Service) -> None:
    for coding in ("gzip", "GZIP", "identity, br"):
        headers = {"Content-Type": "application/json", "Content-Encoding": coding}

        answer = service.send("POST", EXECUTION, gzip.compress(b"{}"), headers)

        assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "identity")
        assert "without compression" in answer.json["detail"]
    assert service.gateway.runs == {}


@pytest.mark.parametrize("coding", ["", "identity", "Identity"])
def test_a_body_that_is_as_it_is_may_say_so(service: Service, coding: str) -> None:
    assert service.send("POST", EXECUTION, {}, {"Content-Encoding": coding}).status == 200


def test_an_unknown_process_is_not_found(service: Service) -> None:
    answer = service.send("POST", "/processes/none/execution", {})

    assert answer.status == 404
    assert answer.json["type"].endswith("/1.0/no-such-process")


def test_who_does_not_say_otherwise_waits_for_the_result(service: Service) -> None:
    answer = service.send("POST", EXECUTION, {"outputs": {"note": {}}})

    assert (answer.status, answer.body) == (200, b"5 < 6")
    assert answer.headers["Content-Type"] == "text/plain"
    assert "Preference-Applied" not in answer.headers
    assert "Link" not in answer.headers


def test_who_prefers_it_gets_the_job_at_once(service: Service) -> None:
    answer = service.send("POST", EXECUTION, {}, {"Prefer": "Respond-Async"})

    assert answer.status == 201
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert answer.headers["Location"] == f"{URL}/jobs/{answer.json['jobID']}"
    assert answer.json["status"] == "accepted"


def test_who_prefers_both_gets_the_result_if_it_is_there_in_time(service: Service) -> None:
    prefer = {"Prefer": "respond-async, wait=10"}

    answer = service.send("POST", EXECUTION, {"outputs": {"rows": {}}}, prefer)

    assert (answer.status, answer.json) == (200, 1)
    assert answer.headers["Preference-Applied"] == "wait=10"


@pytest.mark.parametrize("prefer", ["wait", "wait=soon", "wait=-1"])
def test_a_wait_that_is_none_is_not_applied(service: Service, prefer: str) -> None:
    answer = service.send("POST", EXECUTION, {}, {"Prefer": prefer})

    assert answer.status == 200
    assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize("prefer", ["wait=0", "respond-async, wait=0"])
def test_a_wait_that_runs_out_becomes_an_asynchronous_answer(service: Service, prefer: str) -> None:
    service.gateway.worker = None

    answer = service.send("POST", EXECUTION, {}, {"Prefer": prefer})

    assert answer.status == 201
    assert answer.headers["Preference-Applied"] == prefer
    job_id = answer.json["jobID"]
    service.run(job_id)
    assert service.send("GET", f"/jobs/{job_id}").json["status"] == "successful"


@pytest.mark.parametrize("prefer", ["wait=9999", "respond-async, wait=9999"])
def test_who_is_waited_for_less_than_wanted_is_told_so(service: Service, prefer: str) -> None:
    service.gateway.worker = None
    changed = {"sync_job_execution_timeout_seconds": 0.001}
    service.manager.configuration = service.manager.configuration.model_copy(update=changed)

    answer = service.send("POST", EXECUTION, {}, {"Prefer": prefer})

    assert answer.status == 201
    assert answer.headers["Preference-Applied"] == prefer.replace("9999", "0")


def test_who_cannot_be_waited_for_is_told_nothing_of_waiting(service: Service) -> None:
    service.manager.processes["later"] = {
        "type": "process",
        "processor": {"name": "HelloWorld", "job_control_options": ["async-execute"]},
    }
    body = {"inputs": {"name": "you"}}

    answer = service.send("POST", "/processes/later/execution", body, {"Prefer": "wait=5"})

    assert answer.status == 201
    assert "Preference-Applied" not in answer.headers


def test_a_page_too_says_what_was_done_as_preferred(service: Service) -> None:
    headers = {"Prefer": "respond-async, wait=10, return=minimal", "Accept": "text/html"}

    answer = service.send("POST", EXECUTION, {}, headers)

    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html")
    assert answer.headers["Preference-Applied"] == "wait=10"


def test_who_prefers_little_gets_links(service: Service) -> None:
    prefer = {"Prefer": "return=minimal"}

    answer = service.send("POST", EXECUTION, {"outputs": {"csv": {}}}, prefer)

    (job_id,) = service.gateway.runs
    assert (answer.status, answer.body) == (204, b"")
    link = f'<{URL}/jobs/{job_id}/results/csv>; rel="item"; type="text/csv"; title="csv"'
    assert answer.headers["Link"] == link
    assert answer.headers["Preference-Applied"] == "return=minimal"
    assert "Content-Type" not in answer.headers


def test_what_is_expressly_wanted_by_value_comes_by_value(service: Service) -> None:
    outputs = {"csv": {"transmissionMode": "value"}}

    answer = service.send("POST", EXECUTION, {"outputs": outputs}, {"Prefer": "return=minimal"})

    assert answer.body.decode() == Table.CSV
    assert "Preference-Applied" not in answer.headers


def test_who_gets_links_for_values_is_not_told_otherwise(service: Service) -> None:
    outputs = {"csv": {"transmissionMode": "reference"}}
    prefer = {"Prefer": "return=representation, wait=10"}

    answer = service.send("POST", EXECUTION, {"outputs": outputs}, prefer)

    assert (answer.status, answer.headers["Preference-Applied"]) == (204, "wait=10")


def test_all_that_was_done_as_preferred_is_told(service: Service) -> None:
    prefer = {"Prefer": "return=minimal, wait=10"}
    body = {"response": "document"}

    answer = service.send("POST", EXECUTION, body, prefer)

    assert answer.headers["Preference-Applied"] == "wait=10, return=minimal"
    assert {*answer.json["csv"]} == {"href", "rel", "type"}


def test_of_a_job_that_is_not_there_yet_no_values_or_links_are_promised(service: Service) -> None:
    prefer = {"Prefer": "respond-async, return=minimal"}

    answer = service.send("POST", EXECUTION, {}, prefer)

    assert (answer.status, answer.headers["Preference-Applied"]) == (201, "respond-async")


def test_who_waits_for_a_job_that_fails_has_been_waited_for(service: Service) -> None:
    body = {"inputs": {"fail": "bug"}}

    answer = service.send("POST", EXECUTION, body, {"Prefer": "wait=10, return=minimal"})

    assert (answer.status, answer.headers["Preference-Applied"]) == (500, "wait=10")


def test_a_document_has_values_and_links(service: Service) -> None:
    outputs = {"csv": {"transmissionMode": "reference"}, "note": {}, "rows": {}}

    answer = service.send("POST", EXECUTION, {"response": "document", "outputs": outputs})

    (job_id,) = service.gateway.runs
    assert answer.json == {
        "csv": {"href": f"{URL}/jobs/{job_id}/results/csv", "rel": "item", "type": "text/csv"},
        "note": "5 < 6",
        "rows": 1,
    }


@pytest.mark.parametrize(("fail", "status"), [("input", 400), ("bug", 500)])
def test_a_job_that_fails_says_why_in_fitting_words(
    service: Service, fail: str, status: int
) -> None:
    answer = service.send("POST", EXECUTION, {"inputs": {"fail": fail}})

    (job_id,) = service.gateway.runs
    assert (answer.status, answer.json["status"]) == (status, status)
    assert answer.json["instance"] == f"{URL}/jobs/{job_id}"
    assert job_id in answer.json["detail"]
    assert "/srv/data" not in answer.body.decode()
    later = service.send("GET", f"/jobs/{job_id}/results")
    assert (later.status, later.json["detail"]) == (status, answer.json["detail"])


def test_the_job_of_a_synchronous_answer_is_linked_where_the_operator_wants_it(
    service: Service,
) -> None:
    changed = {"sync_monitor_link": True}
    service.manager.configuration = service.manager.configuration.model_copy(update=changed)

    answer = service.send("POST", EXECUTION, {"outputs": {"note": {}}})

    (job_id,) = service.gateway.runs
    assert answer.headers["Link"] == f'<{URL}/jobs/{job_id}>; rel="monitor"'
    failed = service.send("POST", EXECUTION, {"inputs": {"fail": "bug"}})
    assert failed.headers["Link"] == f'<{failed.json["instance"]}>; rel="monitor"'


def test_a_prefect_server_that_is_down_is_an_error_that_says_so(service: Service) -> None:
    service.gateway.unavailable = True

    for method, path in [("POST", EXECUTION), ("GET", "/jobs"), ("GET", "/jobs/1")]:
        answer = service.send(method, path, {} if method == "POST" else None)
        assert answer.status == 503
        assert "try again later" in answer.json["detail"]
