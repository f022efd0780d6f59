"""What a deployment can set for its jobs, and what they get."""

import copy
from pathlib import Path
from typing import Any

import anyio
import pytest
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.schema_tools.validation import validate

from pygeoapi_prefect.worker import PygeoapiWorker
from pygeoapi_prefect.worker.configuration import PygeoapiJobConfiguration

NOWHERE = "http://127.0.0.1:9/api"
TEMPLATE = PygeoapiWorker.get_default_base_job_template()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"command": None, "env": {}, "stream_output": True, "working_dir": None}),
        ({"working_dir": "/srv"}, {"working_dir": Path("/srv")}),
        (
            {"command": "true", "stream_output": False, "env": {"A": "b", "C": None}},
            {"command": "true", "stream_output": False, "env": {"A": "b", "C": None}},
        ),
    ],
)
def test_what_is_not_set_is_as_the_form_says(
    values: dict[str, Any], expected: dict[str, Any]
) -> None:
    validate(values, TEMPLATE["variables"], raise_on_error=True)

    # there is nothing to be asked, but a client is made
    with temporary_settings({PREFECT_API_URL: NOWHERE}):
        made = anyio.run(PygeoapiJobConfiguration.from_template_and_values, TEMPLATE, values)

    assert {name: getattr(made, name) for name in expected} == expected


def test_a_pool_that_was_made_with_a_longer_form_is_served_as_before() -> None:
    older = copy.deepcopy(TEMPLATE)
    older["variables"]["properties"] |= {"name": {"type": "string"}, "labels": {"type": "object"}}
    older["job_configuration"] |= {"name": "{{ name }}", "labels": "{{ labels }}"}

    with temporary_settings({PREFECT_API_URL: NOWHERE}):
        made = anyio.run(
            PygeoapiJobConfiguration.from_template_and_values,
            older,
            {"name": "n", "labels": {"a": "b"}, "env": {"A": "b"}},
        )

    expected = {"name": "n", "labels": {"a": "b"}, "env": {"A": "b"}}
    assert {name: getattr(made, name) for name in expected} == expected


def test_the_form_has_no_more_than_the_server_has_to_check() -> None:
    variables = TEMPLATE["variables"]["properties"]

    # which the server refuses where it does not name all that the configuration has
    WorkPoolCreate(name="pool", type="pygeoapi", base_job_template=TEMPLATE)
    assert variables.keys() == {"env", "command", "stream_output", "working_dir"}
    assert variables["env"]["additionalProperties"] == {"type": ["string", "null"]}
    assert not any({"anyOf", "default"} & described.keys() for described in variables.values())
    assert all(described["description"] for described in variables.values())
