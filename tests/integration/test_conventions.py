"""Flows are handed what they declare, and store where the block is, in the web process."""

import json
from typing import Any

import pytest

from pygeoapi_prefect.errors import ExecutionError
from tests.integration.conftest import Jobs, Site


@pytest.mark.parametrize("reported_as", ["absolute", "written", "relative", "url"])
def test_a_flow_stores_its_output_through_the_block_and_says_where(
    web: Site, jobs: Jobs, reported_as: str
) -> None:
    content = f"reported as {reported_as}\n"
    job_id, media_type, body = jobs.run("storing", {"content": content, "reported_as": reported_as})
    assert (media_type, body) == ("text/plain", content.encode())
    assert (web.results / job_id / "result.txt").read_text() == content
    assert jobs.manager.get_job_result(job_id) == (media_type, body)


@pytest.mark.parametrize(
    ("reported_as", "message"),
    [
        ("outside", "an output was stored outside the result storage"),
        ("climbing", "a job's file has an invalid name"),
        ("absent", "stored nothing under its location"),
    ],
)
def test_an_output_that_is_not_in_the_result_storage_fails_the_job(
    jobs: Jobs, reported_as: str, message: str
) -> None:
    with pytest.raises(ExecutionError, match=message):
        jobs.run("storing", {"content": "lost", "reported_as": reported_as})
    job = jobs.newest("storing")
    assert job.status == "failed"
    assert message in job.message


def test_the_parameters_of_other_managers_are_handed_over(jobs: Jobs) -> None:
    inputs = {"value": [1, {"a": None}], "more": "text"}
    job_id, _, body = jobs.run("four-other-parameters", inputs, requested_outputs={"result": {}})
    assert json.loads(body) == {
        "processor_id": "four-other-parameters",
        "pygeoapi_job_id": job_id,
        "inputs": inputs,
        "outputs": {"result": {}},
    }


@pytest.mark.parametrize("value", ["text", 1.5, True, ["a", "b"], {"a": {"b": [None]}}])
def test_a_flow_may_declare_some_parameters_only(jobs: Jobs, value: Any) -> None:
    assert json.loads(jobs.run("inputs-alone", {"value": value})[2]) == value


def test_a_flow_may_declare_no_parameter(jobs: Jobs) -> None:
    assert json.loads(jobs.run("nothing-declared", {})[2]) == "I know nothing"


def test_flows_read_root_models_as_they_did_in_pydantic_1(jobs: Jobs) -> None:
    box = {"bbox": [1, 2, 3, 4], "crs": "http://www.opengis.net/def/crs/OGC/1.3/CRS84"}
    inputs = {
        "text": "a",
        "list": [1, "b"],
        "object": {"type": "Point", "coordinates": [1, 2]},
        "qualified": {"value": {"c": 3}, "mediaType": "application/json"},
        "box": box,
    }
    kinds = json.loads(jobs.run("request-alone", inputs)[2])
    assert kinds == {
        "text": {"inline": "a"},
        "list": {"inline": [1, "b"]},
        "object": {"inline": inputs["object"]},
        "qualified": {"qualified": {"c": 3}},
        "box": {"inline": box},
    }


def test_an_async_flow_takes_the_same_parameters(jobs: Jobs) -> None:
    assert json.loads(jobs.run("asynchronous-request", {"value": 7})[2]) == 7
