"""Deployments that others have made, held against the process that they are to run."""

from typing import Any

import pydantic
import pytest
from prefect import flow

from pygeoapi_prefect import execution
from pygeoapi_prefect.deployments.existing import HANDED, misfits

DESCRIPTION: dict[str, Any] = {
    "inputs": {"track": {"schema": {}}, "zoom": {"schema": {}}},
    "outputs": {},
    "jobControlOptions": ["async-execute"],
}


class Track(pydantic.BaseModel):
    track: Any
    zoom: int = 1


class OtherTrack(pydantic.BaseModel):
    line: Any


class ClosedTrack(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    track: Any


@flow
def fitting(
    inputs: dict[str, Any], pygeoapi_job_id: str, processor_id: str = "", zone: int = 0
) -> None: ...


@flow
def with_a_model(inputs: Track, outputs: Any = None) -> None: ...


@flow
def with_anything(inputs: Any) -> None: ...


@flow
def with_one_for_each(track: dict[str, Any], zoom: int, pygeoapi_job_id: str) -> None: ...


@flow
def with_one_for_one(track: dict[str, Any]) -> None: ...


@flow
def with_more(inputs: dict[str, Any], threshold: float) -> None: ...


@flow
def with_nothing(pygeoapi_job_id: str) -> None: ...


@flow
def with_text(inputs: str) -> None: ...


@flow
def with_another_model(inputs: OtherTrack) -> None: ...


@flow
def with_a_closed_model(inputs: ClosedTrack) -> None: ...


def found(tried: Any, *preset: str) -> list[str]:
    return misfits(tried.parameters.model_dump_for_openapi(), preset, DESCRIPTION)


@pytest.mark.parametrize("tried", [fitting, with_a_model, with_anything, with_one_for_each])
def test_what_fits_has_no_problem(tried: Any) -> None:
    assert found(tried) == []


@pytest.mark.parametrize(
    ("tried", "problem"),
    [
        (with_more, "its parameter 'threshold' has no default, and no input"),
        (with_nothing, "it has no parameter for track, zoom, and none named 'inputs'"),
        (with_one_for_one, "it has no parameter for zoom, and none named 'inputs'"),
        (with_text, "its parameter 'inputs' is no object, but of the type string"),
        (with_another_model, "its parameter 'inputs' needs the member 'line'"),
        (with_a_closed_model, "its parameter 'inputs' takes no member 'zoom'"),
    ],
)
def test_what_does_not_fit_is_told(tried: Any, problem: str) -> None:
    (told,) = found(tried)
    assert told.startswith(problem)


def test_what_the_deployment_itself_sets_need_not_be_handed() -> None:
    assert found(with_more, "threshold") == []


@pytest.mark.parametrize(("at_least", "fits"), [(1, True), (0, False)])
def test_what_a_parameter_needs_must_be_required_of_clients(at_least: int, fits: bool) -> None:
    described = {"track": {"schema": {}, "minOccurs": at_least}}
    schema = with_one_for_one.parameters.model_dump_for_openapi()
    assert (misfits(schema, (), {"inputs": described}) == []) is fits


def test_an_input_named_inputs_is_one_like_others() -> None:
    schema = with_text.parameters.model_dump_for_openapi()
    assert misfits(schema, (), {"inputs": {"inputs": {"schema": {}}}}) == []


def test_a_deployment_without_a_schema_takes_nothing() -> None:
    assert misfits({}, (), {"inputs": {}}) == []
    assert misfits({}, (), DESCRIPTION)


def test_a_schema_that_refers_to_itself_admits_everything() -> None:
    schema = {
        "properties": {"inputs": {"$ref": "#/definitions/A"}},
        "definitions": {"A": {"$ref": "#/definitions/A"}},
    }
    assert misfits(schema, (), DESCRIPTION) == []


def test_jobs_are_handed_what_is_said_here() -> None:
    plan = execution.plan("p", DESCRIPTION, {"inputs": {"track": 1, "zoom": 2}}, None)
    assert execution.parameters_of_existing_deployment(plan, DESCRIPTION).keys() == {
        *HANDED,
        *DESCRIPTION["inputs"],
    }
