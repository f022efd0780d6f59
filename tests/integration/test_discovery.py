"""Deployments that are made with Prefect alone, and become processes by a tag."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient

from tests.acceptance.ogc import violations
from tests.integration.conftest import WORK_POOL, Answer, HttpClient, Site, eventually

PROCESS = "/processes/adding.published"
EXECUTION = f"{PROCESS}/execution"
TRACK = {"name": "Säntis", "metres": [1200.5, 300]}
ASYNC = {"Prefer": "respond-async", "Content-Type": "application/json"}
HTML = {"Accept": "text/html"}
OUTPUTS = r'<section[^>]*aria-labelledby="outputs-title">.*?</section>'
SECRET = "known to the deployment alone"


def deploy(site: Site, tag: str, name: str = "published") -> Any:
    flow: Any = Flow.from_source(str(site.folder), entrypoint="site_processes/foreign.py:adding")
    deployment = flow.to_deployment(
        name,
        work_pool_name=WORK_POOL,
        tags=[tag],
        version="2.1",
        description="Adds up a track.",
        parameters={"key": SECRET},
    )
    return deployment.apply()


@pytest.fixture(scope="module")
def published(web: Site, worker: None, prefect_client: SyncPrefectClient) -> Iterator[None]:
    deployment_id = deploy(web, "published")
    yield
    prefect_client.delete_deployment(deployment_id)


@pytest.fixture(scope="module")
def config_path(web: Site) -> Path:
    configuration = web.configuration()
    configuration["resources"] = {}
    configuration["server"]["manager"]["discover"] = {
        "tags": ["published"],
        "result_storage": "local-file-system/foreign-results",
        "refresh_seconds": 0.1,
    }
    path = web.folder / "discovering.yml"
    path.write_text(yaml.safe_dump(configuration))
    return path


def ended(http: HttpClient, location: str) -> Any:
    path = location[location.index("/jobs/") :]

    def look() -> Any:
        status = http("GET", f"{path}?f=json").json
        return None if status["status"] in ("accepted", "running") else status

    return eventually(look)


def appears(http: HttpClient, process_id: str) -> Answer | None:
    answer = http("GET", f"/processes/{process_id}?f=json")
    return answer if answer.status == 200 else None


def test_it_is_listed_and_described_as_the_standard_has_it(
    http: HttpClient, published: None
) -> None:
    description = eventually(lambda: appears(http, "adding.published")).json
    assert violations(description, "process") == []
    assert (description["version"], description["description"]) == ("2.1", "Adds up a track.")
    assert {name: one["minOccurs"] for name, one in description["inputs"].items()} == {
        "track": 1,
        "unit": 0,
        "pause": 0,
        "key": 0,
    }
    assert description["inputs"]["unit"]["schema"]["enum"] == ["m", "km"]
    assert SECRET not in json.dumps(description)

    listed = http("GET", "/processes?f=json").json
    assert violations(listed, "processList") == []
    assert [process["id"] for process in listed["processes"]] == ["adding.published"]
    paths = http("GET", "/openapi?f=json").json["paths"]
    assert EXECUTION in paths
    page = http("GET", PROCESS, headers=HTML)
    assert page.status == 200
    assert "Adds up a track." in page.body.decode()


def test_its_jobs_are_jobs(http: HttpClient, published: None) -> None:
    eventually(lambda: appears(http, "adding.published"))

    accepted = http("POST", EXECUTION, {"inputs": {"track": TRACK}, "response": "document"}, ASYNC)

    assert accepted.status == 201, accepted.body
    status = ended(http, accepted.headers["Location"])
    assert (status["status"], status["processID"]) == ("successful", "adding.published")
    job = f"/jobs/{status['jobID']}"
    result = http("GET", f"{job}/results?f=json").json["result"]["value"]
    assert (result["sum"], result["job"]) == (1500.5, status["jobID"])
    listed = http("GET", "/jobs?f=json&processID=adding.published").json["jobs"]
    assert status["jobID"] in [one["jobID"] for one in listed]
    page = http("GET", job, headers=HTML)
    assert page.status == 200
    assert "Säntis" in page.body.decode()
    # which is among the outputs of this flow, and must be nowhere else
    elsewhere, found = re.subn(OUTPUTS, "", page.body.decode(), flags=re.DOTALL)
    assert found == 1
    assert SECRET not in elsewhere


def test_clients_may_wait_for_its_result(http: HttpClient, published: None) -> None:
    eventually(lambda: appears(http, "adding.published"))
    inputs = {"track": {"value": TRACK}, "unit": "km"}

    answer = http("POST", EXECUTION, {"inputs": inputs}, {"Content-Type": "application/json"})

    assert answer.status == 200, answer.body
    assert {**answer.json, "job": None} == {
        "name": "Säntis",
        "sum": 1.5005,
        "unit": "km",
        "job": None,
        "key": SECRET,
    }


def test_its_jobs_can_be_dismissed(http: HttpClient, published: None) -> None:
    eventually(lambda: appears(http, "adding.published"))
    accepted = http("POST", EXECUTION, {"inputs": {"track": TRACK, "pause": 300}}, ASYNC)
    location = accepted.headers["Location"]
    job = location[location.index("/jobs/") :]

    def runs() -> bool | None:
        return http("GET", f"{job}?f=json").json["status"] == "running" or None

    eventually(runs)

    assert http("DELETE", job).status == 200
    assert ended(http, location)["status"] == "dismissed"


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "'track': is missing"),
        ({"track": {"name": "x", "metres": [-1]}}, "metres"),
        ({"track": TRACK, "unit": "miles"}, "is not one of"),
        ({"track": TRACK, "pygeoapi_job_id": "mine"}, "unknown input"),
        # which fits our description, but not that of the flow
        ({"track": {"href": "http://example.org/track.json"}}, "takes values, and follows no"),
        ({"track": {**TRACK, "name": {"$ref": {"block_document_slug": "x"}}}}, "\\$ref"),
    ],
)
def test_what_does_not_fit_is_refused(
    http: HttpClient, published: None, inputs: Any, reason: str
) -> None:
    eventually(lambda: appears(http, "adding.published"))
    answer = http("POST", EXECUTION, {"inputs": inputs}, ASYNC)
    assert answer.status == 400
    assert reason.replace("\\", "") in answer.json["detail"]


def test_processes_come_and_go_and_their_results_stay(
    http: HttpClient, web: Site, worker: None, prefect_client: SyncPrefectClient
) -> None:
    assert appears(http, "adding.passing") is None
    deployment_id = deploy(web, "published", name="passing")
    eventually(lambda: appears(http, "adding.passing"))
    accepted = http(
        "POST", "/processes/adding.passing/execution", {"inputs": {"track": TRACK}}, ASYNC
    )
    status = ended(http, accepted.headers["Location"])

    prefect_client.delete_deployment(deployment_id)

    eventually(lambda: True if appears(http, "adding.passing") is None else None)
    assert "/processes/adding.passing" not in http("GET", "/openapi?f=json").json["paths"]
    result = http("GET", f"/jobs/{status['jobID']}/results?f=json")
    assert result.json["sum"] == 1500.5
    assert http("DELETE", f"/jobs/{status['jobID']}").status == 200


def test_a_prefect_server_that_is_away_takes_no_process_away(
    http: HttpClient, web: Site, published: None
) -> None:
    eventually(lambda: appears(http, "adding.published"))
    with web.forwarder.closed():
        assert http("GET", PROCESS).status == 200
        answer = http("POST", EXECUTION, {"inputs": {"track": TRACK}}, ASYNC)
        assert answer.status == 503


def test_pygeoapi_itself_serves_it(http: HttpClient, published: None) -> None:
    """Its own application, without any route of ours."""
    module = sys.modules.get("pygeoapi.flask_app")
    if module is None or type(http).__name__ != "_FlaskClient":
        pytest.skip("once is enough")
    client = module.APP.test_client()
    eventually(lambda: True if client.get(PROCESS + "?f=json").status_code == 200 else None)

    listed = client.get("/processes?f=json").json["processes"]
    assert [process["id"] for process in listed] == ["adding.published"]
    waited = client.post(EXECUTION, json={"inputs": {"track": TRACK}})
    assert (waited.status_code, waited.json["sum"]) == (200, 1500.5)
    accepted = client.post(EXECUTION, json={"inputs": {"track": TRACK}}, headers=ASYNC)
    assert accepted.status_code == 201
    assert ended(http, accepted.headers["Location"])["status"] == "successful"
    job = f"/jobs/{accepted.json['jobID']}"
    assert client.get(f"{job}/results?f=json").json["sum"] == 1500.5
    assert client.get("/jobs?f=html").status_code == 200
    assert client.get(f"{job}?f=html").status_code == 200
