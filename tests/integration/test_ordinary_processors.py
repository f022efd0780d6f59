"""pygeoapi's own processors and others that know nothing of Prefect, over HTTP."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from pygeoapi.process.shapely_functions import PROCESS_METADATA as SHAPELY_METADATA

from pygeoapi_prefect.logs import LogPosition
from tests.integration.conftest import Answer, HttpClient, Jobs, eventually

CONTENT: dict[str, tuple[str, bytes]] = {
    "bytes": ("image/png", b"\x89PNG\r\n\x1a\n\x00\xff<>&"),
    "text": ("text/plain", "Grüße <b>& more</b>\n".encode()),
    "json text": ("application/json", b'{"b": 1,  "a": "<>"}'),
    "string": ("application/json", b'"a < b"'),
    "object": ("application/json", '{"b": [1, 2.5, null, true], "a": "<ü>"}'.encode()),
    "list": ("application/json", b'["x/y", "z"]'),
    "number": ("application/json", b"42.5"),
}
INLINE: dict[str, Any] = {
    "bytes": {
        "value": base64.b64encode(CONTENT["bytes"][1]).decode(),
        "mediaType": "image/png",
        "encoding": "base64",
    },
    "text": "Grüße <b>& more</b>\n",
    "json text": {"value": {"b": 1, "a": "<>"}, "mediaType": "application/json"},
    "string": "a < b",
    "object": {
        "value": {"b": [1, 2.5, None, True], "a": "<ü>"},
        "mediaType": "application/json",
    },
    "list": ["x/y", "z"],
    "number": 42.5,
}


def execute(http: HttpClient, process_id: str, inputs: Any, **request: Any) -> Answer:
    return http("POST", f"/processes/{process_id}/execution", {"inputs": inputs, **request})


def newest_result(http: HttpClient, jobs: Jobs, process_id: str) -> Answer:
    return http("GET", f"/jobs/{jobs.newest(process_id).job_id}/results?f=json")


def essence(answer: Answer) -> str:
    return answer.headers["Content-Type"].partition(";")[0]


@pytest.mark.parametrize("kind", list(CONTENT))
def test_a_value_arrives_byte_for_byte(http: HttpClient, jobs: Jobs, kind: str) -> None:
    media_type, content = CONTENT[kind]
    answer = execute(http, "returning", {"kind": kind})
    assert (answer.status, essence(answer), answer.body) == (200, media_type, content)
    later = newest_result(http, jobs, "returning")
    assert (later.status, essence(later), later.body) == (200, media_type, content)
    output = http("GET", f"/jobs/{jobs.newest('returning').job_id}/results/result")
    assert (output.status, essence(output), output.body) == (200, media_type, content)


@pytest.mark.parametrize("kind", list(CONTENT))
def test_a_document_holds_each_value_as_the_standard_has_it(jobs: Jobs, kind: str) -> None:
    job_id, _, body = jobs.run("returning", {"kind": kind}, requested_response="document")
    assert json.loads(body) == {"result": INLINE[kind]}
    assert jobs.manager.get_job_result(job_id)[1] == body


def test_hello_world_answers_as_it_does_without_prefect(http: HttpClient) -> None:
    answer = execute(http, "hello-world", {"name": "Ada", "message": "<hi>"})
    assert answer.status == 200
    assert answer.json == {"id": "echo", "value": "Hello Ada! <hi>"}


def test_shapely_functions_run_their_own_example(http: HttpClient) -> None:
    example = SHAPELY_METADATA["example"]
    answer = http("POST", "/processes/shapely-functions/execution", example)
    assert answer.status == 200, answer.body


def test_the_flow_of_a_processor_is_named_and_described_as_it_is(
    jobs: Jobs,
    flow_run_of: Callable[[str], FlowRun],
    prefect_client: SyncPrefectClient,
) -> None:
    run = flow_run_of(jobs.run("hello-world", {"name": "Ada"})[0])
    assert run.flow_version == "0.2.0"
    assert prefect_client.read_flow(run.flow_id).name == "Hello World"


def test_a_processor_that_does_not_take_outputs_gets_none(jobs: Jobs) -> None:
    _, _, body = jobs.run("echoing-inputs", {"value": 1}, requested_outputs={"result": {}})
    assert json.loads(body) == {"value": 1}


def test_a_processor_that_takes_outputs_gets_them_and_its_job_id(jobs: Jobs) -> None:
    job_id, _, body = jobs.run("selective", {}, requested_outputs={"told": {}})
    assert json.loads(body) == {"job_id": job_id, "outputs": {"told": {}}}


def test_several_outputs_come_as_parts_each_with_its_own_type(http: HttpClient) -> None:
    answer = execute(http, "selective", {}, outputs={"table": {}, "note": {}})
    assert essence(answer) == "multipart/related"
    boundary = answer.headers["Content-Type"].partition('boundary="')[2].rstrip('"')
    parts = [
        part.strip(b"\r\n").split(b"\r\n\r\n", 1)
        for part in answer.body.split(b"--" + boundary.encode())[1:-1]
    ]
    assert [part[0].splitlines() for part in parts] == [
        [b"Content-ID: <table>", b"Content-Type: text/csv"],
        [b"Content-ID: <note>", b"Content-Type: text/plain"],
    ]
    assert answer.body.count(b"\r\n\r\na,b\n1,2\n\r\n--") == 1


def test_a_document_holds_the_chosen_outputs_alone(http: HttpClient, jobs: Jobs) -> None:
    answer = execute(http, "selective", {}, outputs={"note": {}}, response="document")
    assert (answer.status, essence(answer)) == (200, "application/json")
    assert answer.json == {"note": "fine"}
    assert newest_result(http, jobs, "selective").json == {"note": "fine"}


def test_an_output_that_the_process_does_not_have_is_refused_before_there_is_a_job(
    http: HttpClient, jobs: Jobs
) -> None:
    before = jobs.number_of("selective")
    answer = execute(http, "selective", {}, outputs={"pictures": {}})
    assert answer.status == 400
    assert "pictures" in answer.json["description"]
    assert jobs.number_of("selective") == before


def test_references_lead_to_the_stored_bytes(http: HttpClient) -> None:
    answer = execute(
        http,
        "selective",
        {},
        outputs={"table": {"transmissionMode": "reference"}},
        response="document",
    )
    link = answer.json["table"]
    assert link["type"] == "text/csv"
    base, path = link["href"].split("/jobs/")
    assert base == "http://localhost:5000"
    fetched = http("GET", f"/jobs/{path}")
    assert (fetched.status, essence(fetched)) == (200, "text/csv")
    assert fetched.body == b"a,b\n1,2\n"


def test_an_output_that_the_job_does_not_have_is_not_found(http: HttpClient, jobs: Jobs) -> None:
    execute(http, "returning", {"kind": "text"})
    answer = http("GET", f"/jobs/{jobs.newest('returning').job_id}/results/pictures")
    assert answer.status == 404


def test_who_asks_for_what_a_process_forgets_is_told_so(http: HttpClient, jobs: Jobs) -> None:
    both: dict[str, Any] = {"note": {}, "forgotten": {}}
    answer = execute(http, "selective", {}, outputs=both)
    assert answer.status == 500
    reason = "the process made no output 'forgotten', which was asked for"
    assert reason in answer.json["description"]
    job = jobs.newest("selective")
    assert (job.status, reason in job.message) == ("failed", True)

    # who names none gets what there is
    assert execute(http, "selective", {}).status == 200

    def warning() -> str | None:
        lines = jobs.manager.log(jobs.newest("selective").job_id, LogPosition(), 100).lines
        return next((one.message for one in lines if "not produced" in one.message), None)

    assert "forgotten" in eventually(warning)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("plain", "the lake has no shore"),
        ("user", "the lake has no outflow"),
        ("other", "division by zero"),
    ],
)
def test_the_message_of_a_failure_reaches_the_client(
    http: HttpClient, jobs: Jobs, kind: str, message: str
) -> None:
    answer = execute(http, "failing", {"kind": kind})
    assert answer.status == 500
    assert message in answer.json["description"]
    assert b"Traceback" not in answer.body
    status = http("GET", f"/jobs/{jobs.newest('failing').job_id}?f=json").json
    assert status["status"] == "failed"
    assert message in status["message"]
    assert "Traceback" not in status["message"]


def test_the_metadata_of_a_processor_stay_as_its_author_wrote_them(
    http: HttpClient, jobs: Jobs
) -> None:
    assert http("GET", "/processes/returning?f=json").json["id"] == "returning"
    assert http("GET", "/processes?f=json").status == 200
    assert json.loads(jobs.run("returning", {"kind": "metadata"})[2]) is True
