"""A process of the configuration: its description, and how it runs."""

import copy
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from flask.testing import FlaskClient
from prefect import flow
from pygeoapi.process.base import BaseProcessor

from pygeoapi_prefect.config import ManagerConfiguration
from pygeoapi_prefect.errors import ConfigurationError
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.process.base import BasePrefectProcessor
from pygeoapi_prefect.processes import Process, load_process
from pygeoapi_prefect.schemas import ProcessDescription, ProcessIOSchema, ProcessOutput

MANAGER = ManagerConfiguration(name="PrefectManager", result_storage="memory://results")


class Ordinary(BaseProcessor):
    METADATA: ClassVar[dict[str, Any]] = {
        "id": "some-other-id",
        "version": 2,
        "title": {"en": "Buffer", "fr": "Tampon"},
        "inputs": {"a": {"schema": {"type": "string", "contentMediaType": "text/csv"}}},
        "outputs": {"b": {"schema": {"type": "string", "contentMediaType": "text/csv"}}},
    }

    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, self.METADATA)


class Bare(BaseProcessor):
    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, {})


class BadOutputs(BaseProcessor):
    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, {"outputs": [{"id": "a"}]})


class AsyncOnly(BaseProcessor):
    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, {"jobControlOptions": ["async-execute", "dismiss"]})


@flow(name="shared-flow")
def shared() -> int:
    return 1


class WithFlow(BasePrefectProcessor):
    process_flow = shared
    process_description = ProcessDescription(
        version="1", outputs={"b": ProcessOutput(schema_=ProcessIOSchema())}
    )


def load(
    processor: type[BaseProcessor],
    process_id: str = "p",
    manager: ManagerConfiguration = MANAGER,
    **options: Any,
) -> Process:
    resource = {"processor": {"name": f"{__name__}.{processor.__name__}", **options}}
    return load_process(process_id, resource, manager)


def test_the_key_in_the_configuration_is_the_id() -> None:
    assert load(Ordinary).description["id"] == "p"
    assert load(WithFlow, "q").description["id"] == "q"


def test_what_authors_leave_out_is_completed() -> None:
    assert load(Bare).description == {
        "id": "p",
        "version": "0.0.0",
        "title": "p",
        "description": "p",
        "inputs": {},
        "outputs": {},
        "jobControlOptions": ["sync-execute", "async-execute"],
    }


def test_what_authors_say_is_kept() -> None:
    description = load(Ordinary).description

    assert description["title"] == Ordinary.METADATA["title"]
    assert description["version"] == "2"
    assert description["description"] == "Buffer"
    assert description["inputs"] == Ordinary.METADATA["inputs"]


def test_a_description_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"process p: `outputs` .* is no mapping"):
        load(BadOutputs)


@pytest.mark.parametrize(
    ("processor", "options", "settings", "offered"),
    [
        (Bare, {}, {}, ["sync-execute", "async-execute"]),
        (AsyncOnly, {}, {}, ["async-execute", "dismiss"]),
        (WithFlow, {}, {}, ["sync-execute", "async-execute", "dismiss"]),
        (Bare, {"job_control_options": ["async-execute"]}, {}, ["async-execute"]),
        (AsyncOnly, {"job_control_options": ["sync-execute"]}, {}, ["sync-execute"]),
        (Bare, {}, {"enable_sync_job_execution": False}, ["async-execute"]),
        (Bare, {}, {"enable_async_job_execution": False}, ["sync-execute"]),
        (WithFlow, {}, {"enable_async_job_execution": False}, ["sync-execute", "dismiss"]),
    ],
)
def test_modes_are_those_of_the_author_and_the_operator(
    processor: type[BaseProcessor],
    options: dict[str, Any],
    settings: dict[str, Any],
    offered: list[str],
) -> None:
    process = load(processor, manager=MANAGER.model_copy(update=settings), **options)

    assert process.description["jobControlOptions"] == offered
    assert process.can_wait is ("sync-execute" in offered)


@pytest.mark.parametrize(
    ("processor", "settings"),
    [
        (AsyncOnly, {"enable_async_job_execution": False}),
        (Bare, {"enable_async_job_execution": False, "enable_sync_job_execution": False}),
    ],
)
def test_a_process_that_is_left_no_mode_is_refused(
    processor: type[BaseProcessor], settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=r"process p: .* leaves no mode"):
        load(processor, manager=MANAGER.model_copy(update=settings))


@pytest.mark.parametrize(
    ("options", "settings", "is_deployed"),
    [
        ({}, {}, False),
        ({}, {"sync_through_deployments": True}, True),
        ({"prefect": {"deployment": {}}}, {}, True),
        ({"prefect": {"deployment": {"queue": "q"}}}, {}, True),
        ({"prefect": {"result_storage": "memory://x"}}, {}, False),
    ],
)
def test_synchronous_jobs_run_where_the_configuration_says(
    options: dict[str, Any], settings: dict[str, Any], is_deployed: bool
) -> None:
    process = load(Bare, manager=MANAGER.model_copy(update=settings), **options)

    assert process.sync_is_deployed is is_deployed


def test_deployments_of_two_processes_with_one_flow_are_two() -> None:
    assert load(WithFlow, "a").deployment == "shared-flow/a"
    assert load(WithFlow, "b").deployment == "shared-flow/b"
    named = load(WithFlow, "c", prefect={"deployment": {"name": "main"}})
    assert named.deployment == "shared-flow/main"


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ({}, "memory://results"),
        ({"prefect": {"result_storage": "memory://own"}}, "memory://own"),
        (
            {"prefect": {"deployment": {"result_storage_block": "local-file-system/x"}}},
            "local-file-system/x",
        ),
    ],
)
def test_results_go_to_the_storage_of_the_process_or_the_manager(
    options: dict[str, Any], address: str
) -> None:
    assert load(Bare, **options).definition.result_storage == address


def test_a_process_in_yaml_alone_has_no_flow_of_ours() -> None:
    resource = {
        "processor": {
            "prefect": {
                "metadata": {"version": "1", "title": "Slope", "outputs": {}},
                "deployment": {"name": "slope-flow/main"},
            }
        }
    }

    process = load_process("slope", resource, MANAGER)

    assert process.flow is None
    assert process.deployment == "slope-flow/main"
    assert process.sync_is_deployed
    processor = process.processor()
    assert processor.metadata["title"] == "Slope"
    assert processor.metadata["id"] == "slope"


def test_a_caller_may_change_the_metadata_of_its_processor() -> None:
    process = load(Ordinary)
    before = copy.deepcopy((process.description, Ordinary.METADATA))

    metadata = process.processor().metadata
    metadata["inputs"].clear()
    metadata["outputs"]["b"]["schema"].pop("contentMediaType")
    metadata["jobControlOptions"].append("x")

    assert (process.description, Ordinary.METADATA) == before
    assert process.processor().metadata == before[0]


@pytest.mark.parametrize("internal", [True, False])
def test_internal_requests_are_allowed_by_the_resource(internal: bool) -> None:
    resource = {
        "processor": {"name": f"{__name__}.Bare"},
        "allow_internal_requests": internal,
    }

    assert load_process("p", resource, MANAGER).processor().allow_internal_requests is internal


def test_pygeoapi_changes_no_description_however_often_it_describes(
    make_manager: Callable[..., PrefectManager],
    client_of: Callable[[PrefectManager], FlaskClient],
) -> None:
    before = copy.deepcopy(Ordinary.METADATA)
    manager = make_manager(
        {
            "ordinary": {
                "name": f"{__name__}.Ordinary",
                "job_control_options": ["sync-execute"],
            },
            "with-flow": f"{__name__}.WithFlow",
        }
    )
    client = client_of(manager)
    paths = ["/processes", "/processes/ordinary", "/processes/with-flow"]

    answers = [
        [client.get(path, headers={"Accept": "application/json"}).get_json() for path in paths]
        for _ in range(2)
    ]

    assert answers[0] == answers[1]
    assert before == Ordinary.METADATA
    assert answers[0][1]["inputs"] == before["inputs"]
    assert "async-execute" not in answers[0][1]["jobControlOptions"]
    assert WithFlow.process_description.id == ""


def test_a_broken_process_disables_itself_and_no_other(
    make_manager: Callable[..., PrefectManager],
    client_of: Callable[[PrefectManager], FlaskClient],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, logger="pygeoapi_prefect"):
        manager = make_manager(
            {
                "gone": "no_such_module.Processor",
                "whole": f"{__name__}.Ordinary",
                "mistyped": {"name": f"{__name__}.Bare", "prefect": {"deploymnt": {}}},
                "empty": {},
            }
        )

    assert list(manager.processes) == ["whole"]
    for process_id, reason in {
        "gone": "process gone: cannot load no_such_module.Processor: ModuleNotFoundError",
        "mistyped": "resources.mistyped.processor.prefect.deploymnt",
        "empty": "resources.empty.processor needs either",
    }.items():
        assert reason in caplog.text
        assert f"process {process_id} is disabled" in caplog.text
    client = client_of(manager)
    listed = client.get("/processes", headers={"Accept": "application/json"}).get_json()
    assert [process["id"] for process in listed["processes"]] == ["whole"]
    assert client.post("/processes/gone/execution", json={"inputs": {}}).status_code == 404
