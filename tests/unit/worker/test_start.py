"""How the process of a job comes about."""

import pytest

from pygeoapi_prefect.flows import DEFINITION_VARIABLE
from pygeoapi_prefect.worker.start import PROCESS_VARIABLE, Profile, Start, StartPlan, plan_start

WORKER_ENVIRONMENT = {"PATH": "/bin", "PREFECT_API_URL": "http://127.0.0.1:4200/api"}


def plan(**changes: object) -> StartPlan:
    arguments: dict[str, object] = {
        "entrypoint": "package.flows.hello",
        "pull_steps": [],
        "environment": {},
        "worker_environment": WORKER_ENVIRONMENT,
        "working_directory": None,
        "command": None,
    }
    return plan_start(**(arguments | changes))  # type: ignore[arg-type]


def test_a_flow_in_a_module_starts_warm() -> None:
    assert plan().start is Start.WARM


def test_variables_that_the_worker_has_too_do_not_matter() -> None:
    environment = WORKER_ENVIRONMENT | {"PREFECT__FLOW_RUN_ID": "1"}

    assert plan(environment=environment) == plan()


@pytest.mark.parametrize(
    "name", ["PYTHONPATH", "PYTHONHASHSEED", "LD_PRELOAD", "OMP_NUM_THREADS", "PREFECT_API_URL"]
)
def test_variables_that_are_read_at_start_make_a_job_cold_and_the_reason_names_them(
    name: str,
) -> None:
    planned = plan(environment={name: "other"})

    assert planned.start is Start.COLD
    assert name in planned.reason


def test_a_configured_command_makes_a_job_cold() -> None:
    planned = plan(command="run-it flow")

    assert planned.start is Start.COLD
    assert "command" in planned.reason


def test_other_variables_start_warm_in_a_process_of_their_own() -> None:
    planned = plan(environment={"GDAL_CACHEMAX": "64"})

    assert planned.start is Start.WARM
    assert planned.profile != plan().profile
    assert planned.profile == plan(environment={"GDAL_CACHEMAX": "64"}).profile


def test_all_processes_of_the_configuration_share_warm_processes() -> None:
    first = plan(environment={"PYGEOAPI_PREFECT_PROCESS": '{"process_id": "a"}'})
    second = plan(environment={"PYGEOAPI_PREFECT_PROCESS": '{"process_id": "b"}'})

    assert first == second == plan()


def test_a_fixed_directory_is_part_of_what_a_process_is_bound_to() -> None:
    step = {"prefect.deployments.steps.set_working_directory": {"directory": "/srv/flows"}}

    planned = plan(entrypoint="flows.py:hello", pull_steps=[step])

    assert planned == StartPlan(Start.WARM, Profile(frozenset(), "/srv/flows"))


@pytest.mark.parametrize(
    "step",
    [
        {"prefect.deployments.steps.git_clone": {"repository": "https://example.org/a.git"}},
        {"prefect.deployments.steps.set_working_directory": {"directory": "relative"}},
        {"prefect.deployments.steps.set_working_directory": {"directory": "/{{ clone.dir }}"}},
        {"prefect.deployments.steps.set_working_directory": None},
    ],
)
def test_pull_steps_that_may_bring_new_code_start_fresh(step: dict[str, object]) -> None:
    planned = plan(pull_steps=[step])

    assert planned.start is Start.FRESH
    assert planned.reason


def test_code_that_is_copied_from_storage_starts_fresh() -> None:
    assert plan(entrypoint="flows.py:hello").start is Start.FRESH


def test_the_variable_of_processes_is_the_one_that_jobs_read() -> None:
    assert PROCESS_VARIABLE == DEFINITION_VARIABLE
