"""Jobs that a worker runs: processes and flows behave there as in the web process."""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun

from tests.integration.conftest import LARGE_TEXT, Jobs, Site, eventually

FlowRunOf = Callable[[str], FlowRun]
Deployed = Mapping[str, str]


def folder_of(site: Site, name: str) -> Path:
    return site.folder / "deployed" / name


def test_hello_world_runs(jobs: Jobs, deployed: Deployed) -> None:
    assert json.loads(jobs.result(deployed["hello"])) == {"id": "echo", "value": "Hello Ada!"}


def test_pygeoapis_echo_runs(jobs: Jobs, deployed: Deployed) -> None:
    assert json.loads(jobs.result(deployed["pause"])) == {"id": "echoOutput", "value": "Test"}
    times = jobs.manager.get_job(deployed["pause"])
    assert times["started"] < times["finished"]


def test_shapely_functions_run_their_own_example(jobs: Jobs, deployed: Deployed) -> None:
    in_worker = jobs.result(deployed["shapely"])
    request = jobs.manager.gateway.find(deployed["shapely"]).execution_request
    assert request is not None
    _, _, in_web = jobs.run("shapely-functions", json.loads(request)["inputs"])
    assert in_worker == in_web


def test_bytes_arrive_as_they_were_returned(jobs: Jobs, deployed: Deployed) -> None:
    assert jobs.result(deployed["bytes"]) == b"\x89PNG\r\n\x1a\n\x00\xff<>&"
    assert jobs.manager.get_job_result(deployed["bytes"])[0] == "image/png"
    assert jobs.manager.get_job(deployed["bytes"])["mimetype"] == "application/json"


def test_a_document_has_the_outputs_that_were_asked_for(jobs: Jobs, deployed: Deployed) -> None:
    document = json.loads(jobs.result(deployed["document"]))
    assert document["table"] == {"value": "a,b\n1,2\n", "mediaType": "text/csv"}
    assert document["told"]["value"] == {
        "job_id": deployed["document"],
        "outputs": {"table": {}, "told": {}},
    }
    assert len(document) == 2


def test_a_failed_job_says_why(jobs: Jobs, deployed: Deployed) -> None:
    job = jobs.ended(deployed["message"])
    assert job.status == "failed"
    assert "the lake has no outflow" in job.message
    assert "internal" not in job.message


def test_a_large_request_arrives_whole(jobs: Jobs, deployed: Deployed) -> None:
    assert json.loads(jobs.result(deployed["large"])) == {"length": len(LARGE_TEXT)}


def test_a_flow_stores_through_the_block(web: Site, jobs: Jobs, deployed: Deployed) -> None:
    assert jobs.result(deployed["stores"]) == b"by a worker"
    assert (web.results / deployed["stores"] / "result.txt").read_bytes() == b"by a worker"


def test_a_flow_is_retried_after_its_delay(
    web: Site, jobs: Jobs, deployed: Deployed, flow_run_of: FlowRunOf
) -> None:
    assert json.loads(jobs.result(deployed["retries"])) == "success 3"
    attempts = folder_of(web, "retries") / "attempts"
    times = [float(line) for line in attempts.read_text().splitlines()]
    assert len(times) == 3
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 1
    assert flow_run_of(deployed["retries"]).run_count == 3


def test_a_timeout_fails_the_job(jobs: Jobs, deployed: Deployed) -> None:
    job = jobs.ended(deployed["timeout"])
    assert job.status == "failed"
    assert "exceeded timeout of 1.0 second" in job.message


def test_a_run_that_its_flow_renames_is_still_the_job(
    jobs: Jobs, deployed: Deployed, flow_run_of: FlowRunOf
) -> None:
    job_id = deployed["name"]
    assert json.loads(jobs.result(job_id)) == "Hello Ada!"
    assert flow_run_of(job_id).name == f"greet Ada ({job_id})"
    listed = jobs.manager.get_jobs(limit=200)["jobs"]
    assert [job["process_id"] for job in listed if job["identifier"] == job_id] == ["named"]


def test_prints_and_logs_reach_prefect(
    jobs: Jobs, deployed: Deployed, flow_run_of: FlowRunOf, prefect_client: SyncPrefectClient
) -> None:
    jobs.result(deployed["prints"])
    run_filter = LogFilter(
        flow_run_id=LogFilterFlowRunId(any_=[flow_run_of(deployed["prints"]).id])
    )

    def look() -> bool | None:
        logs = prefect_client.read_logs(run_filter, limit=50, offset=0)
        return {"printed merganser", "logged merganser"} <= {log.message for log in logs} or None

    eventually(look)


@pytest.mark.parametrize(
    ("name", "hook", "state"),
    [
        ("success", "completion", "Completed"),
        ("failure", "failure", "Failed"),
        ("crash", "crashed", "Crashed"),
    ],
)
def test_state_hooks_are_called(
    web: Site,
    jobs: Jobs,
    deployed: Deployed,
    flow_run_of: FlowRunOf,
    name: str,
    hook: str,
    state: str,
) -> None:
    jobs.ended(deployed[name])
    prefix = f"{flow_run_of(deployed[name]).name} "

    def look() -> dict[str, str] | None:
        called = {
            path.name.removeprefix(prefix): path.read_text()
            for path in (web.folder / "hooks").glob(f"{prefix}*")
        }
        return called if called.get(hook) else None

    # a worker calls some of them itself, after the job has ended
    assert eventually(look) == {"running": "Running", hook: state}


def test_tasks_run_in_a_pool_of_threads(jobs: Jobs, deployed: Deployed) -> None:
    assert json.loads(jobs.result(deployed["threads"])) == 5


def test_sub_flows_run_but_are_no_jobs(jobs: Jobs, deployed: Deployed) -> None:
    assert json.loads(jobs.result(deployed["sub-flows"])) == 10
    listed = jobs.manager.get_jobs(limit=200)["jobs"]
    assert sum(job["process_id"] == "outer" for job in listed) >= 1
    assert all(job["process_id"] for job in listed)


def test_an_async_flow_runs(jobs: Jobs, deployed: Deployed) -> None:
    assert json.loads(jobs.result(deployed["async flow"])) == [1, 4, 9]
