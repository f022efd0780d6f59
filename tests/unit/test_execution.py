"""From an execute request to a plan."""

import json
import math
import uuid
from typing import Any

import pytest

from pygeoapi_prefect.errors import InvalidRequest, StorageError
from pygeoapi_prefect.execution import (
    Plan,
    announced_media_type,
    choose_mode,
    inputs_in_parameters,
    parameters_of_existing_deployment,
    parse_request,
    plan,
)
from pygeoapi_prefect.schemas import (
    ExecutionOutput,
    ProcessExecutionMode,
    ProcessOutputTransmissionMode,
    ProcessResponseType,
    RequestedProcessExecutionMode,
)
from pygeoapi_prefect.wishes import Wishes

SYNC, ASYNC = ProcessExecutionMode.sync_execute, ProcessExecutionMode.async_execute
WAIT, RESPOND_ASYNC = (
    RequestedProcessExecutionMode.wait,
    RequestedProcessExecutionMode.respond_async,
)
RAW, DOCUMENT = ProcessResponseType.raw, ProcessResponseType.document
BY_REFERENCE = ExecutionOutput(transmission_mode=ProcessOutputTransmissionMode.REFERENCE)

DESCRIPTION = {
    "id": "buffer",
    "version": "1.0.0",
    "jobControlOptions": ["sync-execute", "async-execute"],
    "outputTransmission": ["value", "reference"],
    "inputs": {"name": {"schema": {"type": "string"}}, "zone": {"schema": {}, "minOccurs": 0}},
    "outputs": {
        "table": {"schema": {"type": "string", "contentMediaType": "text/csv"}},
        "text": {"schema": {"type": "string"}},
        "count": {"schema": {"type": "integer"}},
    },
}


@pytest.mark.parametrize(
    ("offered", "requested", "mode"),
    [
        (["sync-execute", "async-execute"], None, SYNC),
        (["sync-execute", "async-execute"], WAIT, SYNC),
        (["sync-execute", "async-execute"], RESPOND_ASYNC, ASYNC),
        (["sync-execute"], None, SYNC),
        (["sync-execute"], RESPOND_ASYNC, SYNC),
        (["async-execute", "dismiss"], None, ASYNC),
        (["async-execute"], WAIT, ASYNC),
    ],
)
def test_the_mode_is_what_both_sides_can_have(
    offered: list[str],
    requested: RequestedProcessExecutionMode | None,
    mode: ProcessExecutionMode,
) -> None:
    assert choose_mode(offered, requested) is mode


@pytest.mark.parametrize("offered", [[], ["dismiss"]])
def test_a_process_without_a_mode_is_not_executed(offered: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="in any mode"):
        choose_mode(offered, None)


def planned(**request: Any) -> Plan:
    return plan("buffer", DESCRIPTION, {"inputs": {"name": "x"}, **request}, None)


def test_a_plan_carries_the_inputs_verbatim() -> None:
    zone = {"__prefect_kind": "json", "value": "{{ 1 }}", "$ref": "x", "ü": [1, None, 2.5]}

    made = planned(inputs={"name": "<&>", "zone": zone})

    assert made.request["inputs"] == {"name": "<&>", "zone": zone}
    assert parse_request(made.request_text) == made.request
    assert uuid.UUID(made.job_id)
    assert (made.process_id, made.mode) == ("buffer", SYNC)


def test_each_plan_is_another_job() -> None:
    assert planned().job_id != planned().job_id


@pytest.mark.parametrize("outputs", [None, {}, []])
def test_who_names_no_outputs_gets_all(outputs: Any) -> None:
    made = planned(outputs=outputs)

    assert set(made.wishes.outputs) == {"table", "text", "count"}
    assert made.request["outputs"] == outputs
    assert made.result_media_type == "multipart/related"


def test_a_selection_of_outputs_is_kept() -> None:
    made = planned(outputs={"table": {"transmissionMode": "reference"}}, response="document")

    assert made.wishes.outputs == {"table": BY_REFERENCE}
    assert Wishes.of_request(json.loads(made.request_text)) == made.wishes
    assert made.response is DOCUMENT
    assert made.request["outputs"] == {"table": {"transmissionMode": "reference"}}
    assert made.request["response"] == "document"


@pytest.mark.parametrize(
    ("request_members", "reason"),
    [
        ({"inputs": {}}, "name"),
        ({"inputs": {"name": "x", "colour": 1}}, "colour"),
        ({"inputs": {"name": 5}}, "name"),
        ({"outputs": {"colour": {}}}, "colour"),
        ({"response": "bogus"}, "response: must be raw or document"),
        ({"response": ["raw"]}, "response: must be raw or document"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_the_reason(
    request_members: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        planned(**request_members)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_do_not_get_into_a_job(number: float) -> None:
    with pytest.raises(InvalidRequest, match="zone"):
        planned(inputs={"name": "x", "zone": {"a": [number]}})


@pytest.mark.parametrize("text", ["", "no json", "[1]", '"text"', "null"])
def test_a_damaged_request_is_a_storage_error(text: str) -> None:
    with pytest.raises(StorageError, match="the job's execute request is no JSON"):
        parse_request(text)


def test_an_existing_deployment_gets_inputs_as_parameters() -> None:
    made = planned(outputs={"text": {}})

    assert parameters_of_existing_deployment(made, DESCRIPTION) == {
        "processor_id": "buffer",
        "pygeoapi_job_id": made.job_id,
        "inputs": {"name": "x"},
        "outputs": {"text": {}},
        "name": "x",
    }


@pytest.mark.parametrize("given", [{}, {"inputs": {"a": 1}}, {"inputs": 1, "outputs": 2}])
def test_an_input_has_the_parameter_of_its_name(given: dict[str, Any]) -> None:
    description = {
        **DESCRIPTION,
        "inputs": {key: {"minOccurs": 0} for key in ("inputs", "outputs")},
    }
    made = plan("buffer", description, {"inputs": given}, None)

    parameters = parameters_of_existing_deployment(made, description)

    assert parameters == {
        "processor_id": "buffer",
        "pygeoapi_job_id": made.job_id,
        **given,
    }
    kept = parse_request(made.request_text_without_inputs)
    assert inputs_in_parameters(kept, {**parameters, "preset": "secret"}) == given


def test_a_parameter_gets_the_value_of_a_qualified_input() -> None:
    made = planned(inputs={"name": {"value": "x", "mediaType": "text/plain"}})

    parameters = parameters_of_existing_deployment(made, DESCRIPTION)
    assert parameters["name"] == "x"
    assert parameters["inputs"] == {"name": "x"}


def test_a_link_reaches_a_flow_that_nobody_follows_it_for_only_as_an_object() -> None:
    link = {"href": "https://example.org/x"}
    made = planned(inputs={"name": "x", "zone": link})
    assert parameters_of_existing_deployment(made, DESCRIPTION)["zone"] == link

    with pytest.raises(InvalidRequest, match="input 'name': this process takes values"):
        parameters_of_existing_deployment(planned(inputs={"name": link}), DESCRIPTION)


def test_inputs_are_found_where_the_flow_takes_them_together() -> None:
    made = planned()
    parameters = {"inputs": made.request["inputs"], "preset": 1}

    kept = parse_request(made.request_text_without_inputs)
    assert inputs_in_parameters(kept, parameters) == {"name": "x"}
    assert inputs_in_parameters({}, {}) == {}


@pytest.mark.parametrize(
    "value",
    [
        {"__prefect_kind": "workspace_variable", "variable_name": "x"},
        {"a": [{"b": {"__prefect_kind": "json"}}]},
        [[{"$ref": "block"}]],
        {"value": {"__prefect_kind": "json"}},
        {"value": '{"$ref": "block"}', "mediaType": "application/json"},
        {"value": "eyIkcmVmIjogMX0=", "mediaType": "application/json", "encoding": "base64"},
    ],
)
def test_what_prefect_would_rewrite_is_refused_where_it_can_be_reached(value: Any) -> None:
    schema = {"oneOf": [{"type": "object"}, {"type": "array"}]}
    description = {**DESCRIPTION, "inputs": {"zone": {"schema": schema}}}
    made = plan("buffer", description, {"inputs": {"zone": value}}, None)

    with pytest.raises(InvalidRequest, match="__prefect_kind are not allowed here"):
        parameters_of_existing_deployment(made, description)


@pytest.mark.parametrize(
    ("outputs", "response", "media_type"),
    [
        ({"table": {}}, RAW, "text/csv"),
        (
            {"table": {"format": {"mediaType": "text/csv; header=absent"}}},
            RAW,
            "text/csv; header=absent",
        ),
        (["table", "text"], RAW, "multipart/related"),
        (["table", "text"], DOCUMENT, "application/json"),
        (["unknown"], RAW, "application/json"),
        ([], RAW, "application/json"),
    ],
)
def test_the_media_type_of_the_result_is_announced(
    outputs: Any, response: ProcessResponseType, media_type: str
) -> None:
    wishes = Wishes.of_request({"outputs": outputs})

    assert announced_media_type(DESCRIPTION, wishes, response) == media_type
