"""Processes described in YAML alone, whose deployments were made with Prefect alone."""

import base64
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from pygeoapi_prefect.errors import JobNotFound, ResultMissing, ResultUnreadable
from tests.integration.conftest import Jobs, Site

Deployed = Mapping[str, str]


def test_a_plain_value_is_the_first_output(jobs: Jobs, deployed: Deployed) -> None:
    assert json.loads(jobs.result(deployed["existing"])) == {
        "processor_id": "existing-foreign",
        "pygeoapi_job_id": deployed["existing"],
        "inputs": {"value": [1]},
        "outputs": {"first": {}},
    }


def test_media_type_and_value_are_one_output(jobs: Jobs, deployed: Deployed) -> None:
    job = jobs.ended(deployed["existing pair"])
    output = jobs.manager.output(job, "first")
    assert (output.media_type, output.read()) == ("text/csv", b"a,b\n1,2\n")
    # the request names none of the two that are declared, which asks for both
    media_type, body = jobs.manager.get_job_result(job.job_id)
    assert media_type.startswith("multipart/related")
    assert body.count(b"Content-ID:") == 1


def test_a_mapping_by_output_ids_is_several_outputs(jobs: Jobs, deployed: Deployed) -> None:
    job_id = deployed["existing outputs"]
    # the request is a document with the second one alone, which no parameter of the run says
    assert json.loads(jobs.result(job_id)) == {"second": "two"}
    first = jobs.manager.output(jobs.manager.gateway.find(job_id), "first")
    assert json.loads(first.read()) == {"number": 1}


def test_files_that_the_flow_reports_are_its_outputs(jobs: Jobs, deployed: Deployed) -> None:
    assert jobs.result(deployed["existing files"]) == b"stored by the flow"
    assert jobs.manager.get_job_result(deployed["existing files"])[0] == "text/plain"


def test_a_compressed_result_in_a_block_is_read(jobs: Jobs, deployed: Deployed) -> None:
    assert json.loads(jobs.result(deployed["existing compressed"])) == {"value": "x" * 1000}


def test_a_result_is_found_by_the_key_in_the_configuration(
    web: Site, jobs: Jobs, deployed: Deployed
) -> None:
    job_id = deployed["existing key"]
    assert json.loads(jobs.result(job_id)) == {"value": {"a": None}}
    assert (web.folder / "foreign-results" / "written" / f"{job_id}.json").exists()


def test_a_pickle_is_refused_and_not_loaded(
    web: Site, jobs: Jobs, deployed: Deployed, flow_run_of: Callable[[str], FlowRun]
) -> None:
    job_id = deployed["existing pickle"]
    jobs.ended(job_id)
    left_by_loading = web.folder / "deployed" / "pickle" / "loaded"
    with pytest.raises(ResultUnreadable, match="serializer 'pickle'; only JSON is read"):
        jobs.manager.get_job_result(job_id)
    assert not left_by_loading.exists()

    # the trap is a real one
    state: Any = flow_run_of(job_id).state
    pickle.loads(base64.b64decode(Path(state.data.storage_key).read_bytes()))
    assert left_by_loading.exists()


def test_a_flow_that_keeps_no_result_is_told_how_to(jobs: Jobs, deployed: Deployed) -> None:
    jobs.ended(deployed["existing nothing"])
    with pytest.raises(ResultMissing, match="persist_result=True"):
        jobs.manager.get_job_result(deployed["existing nothing"])


def test_jobs_are_those_of_the_process(jobs: Jobs, deployed: Deployed) -> None:
    job = jobs.manager.get_job(deployed["existing"])
    assert (job["process_id"], json.loads(job["parameters"])) == (
        "existing-foreign",
        {"value": [1]},
    )


def test_a_deployment_that_was_made_by_others_is_left_as_it_is(
    prefect_client: SyncPrefectClient,
) -> None:
    deployment = prefect_client.read_deployment_by_name("foreign/by-hand")
    assert deployment.entrypoint == "site_processes/foreign.py:foreign"
    assert deployment.tags == []


def test_removing_a_job_removes_its_result(web: Site, jobs: Jobs, deployed: Deployed) -> None:
    job_id = deployed["existing key"]
    record = Path(web.folder, "foreign-results", "written", f"{job_id}.json")
    jobs.ended(job_id)
    assert record.exists()
    jobs.manager.delete_job(job_id)
    assert not record.exists()
    with pytest.raises(JobNotFound):
        jobs.manager.get_job(job_id)
