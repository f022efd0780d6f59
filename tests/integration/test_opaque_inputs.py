"""Inputs that Prefect would replace with something else reach flows verbatim, or not at all."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Pending

from pygeoapi_prefect.errors import InvalidRequest
from tests.integration.conftest import (
    HOSTILE_INPUT,
    TAKING_ANY_VALUE,
    HttpClient,
    Jobs,
)


def returned_value(process_id: str, body: bytes) -> Any:
    value = json.loads(body)
    match process_id:
        case "four-other-parameters":
            return value["inputs"]["value"]
        case "echoing-inputs":
            return value["value"]
    return value


def test_the_server_does_replace_what_it_finds_in_parameters(
    jobs: Jobs, prefect_client: SyncPrefectClient
) -> None:
    # without this, the tests below would pass on a server that leaves everything alone
    deployment = prefect_client.read_deployment_by_name("foreign/by-hand")
    run = prefect_client.create_flow_run_from_deployment(
        deployment.id,
        parameters={
            "processor_id": HOSTILE_INPUT["variable"],
            "pygeoapi_job_id": HOSTILE_INPUT["jinja"] | {"template": "{{ 1 + 1 }}"},
            "inputs": {"value": HOSTILE_INPUT["json"]},
        },
        state=Pending(),
    )
    assert run.parameters["processor_id"] == "high"
    assert run.parameters["pygeoapi_job_id"] == "2"
    assert run.parameters["inputs"] == {"value": [1, 2]}
    prefect_client.delete_flow_run(run.id)


@pytest.mark.parametrize("process_id", TAKING_ANY_VALUE)
def test_a_flow_in_the_web_process_gets_its_inputs_verbatim(jobs: Jobs, process_id: str) -> None:
    secret: Any = Secret.load("harbour")
    by_id = {"$ref": {"block_document_id": str(secret._block_document_id)}}
    value = {**HOSTILE_INPUT, "block by id": by_id}
    _, _, body = jobs.run(process_id, {"value": value})
    assert returned_value(process_id, body) == value


@pytest.mark.parametrize("process_id", TAKING_ANY_VALUE)
def test_a_flow_in_a_worker_gets_its_inputs_verbatim(
    jobs: Jobs, deployed: Mapping[str, str], process_id: str
) -> None:
    value = returned_value(process_id, jobs.result(deployed[f"hostile {process_id}"]))
    assert value.pop("block by id")["$ref"].keys() == {"block_document_id"}
    assert value == HOSTILE_INPUT


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE_INPUT if kind != "text"])
def test_a_flow_that_takes_inputs_from_prefect_gets_no_such_input(jobs: Jobs, kind: str) -> None:
    before = jobs.number_of("existing-foreign")
    with pytest.raises(InvalidRequest, match=r"\$ref or __prefect_kind are not allowed"):
        jobs.submit("existing-foreign", {"value": HOSTILE_INPUT[kind]})
    assert jobs.number_of("existing-foreign") == before


def test_the_refusal_is_the_clients_error(http: HttpClient) -> None:
    answer = http(
        "POST",
        "/processes/existing-foreign/execution",
        {"inputs": {"value": HOSTILE_INPUT["variable"]}},
    )
    assert answer.status == 400
    assert "__prefect_kind" in answer.json["description"]
