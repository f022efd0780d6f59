"""How jobs start, when processes are replaced, what becomes of orphans."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.schemas.objects import State, StateDetails
from prefect.states import AwaitingRetry, Completed, Failed, Pending, Running, Scheduled

from pygeoapi_prefect.flows import DEFINITION_VARIABLE
from pygeoapi_prefect.worker.decisions import (
    PROCESS_VARIABLE,
    Owner,
    Profile,
    Start,
    StartPlan,
    Surroundings,
    Verdict,
    find_owner,
    find_replaced,
    is_gone,
    judge_orphan,
    plan_start,
    runs_to_claim_ahead,
    why_replace,
)

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


@pytest.mark.parametrize(
    ("jobs_done", "resident_mib", "expected"),
    [
        (1, 100.0, None),
        (9, 512.0, None),
        (10, 100.0, "it has run 10 jobs"),
        (1, 513.0, "it holds 513 MiB, more than 512 MiB"),
    ],
)
def test_a_process_is_replaced_after_its_jobs_or_above_its_memory(
    jobs_done: int, resident_mib: float, expected: str | None
) -> None:
    why = why_replace(
        jobs_done=jobs_done, resident_mib=resident_mib, jobs_per_process=10, memory_limit_mib=512
    )

    assert why == expected


@pytest.mark.parametrize(
    ("limits", "ended", "running", "expected"),
    [
        pytest.param([None, None], [0.2, 0.3], [0.1, 0.1], 1, id="short jobs"),
        pytest.param([None], [0.2], [], 1, id="a short job, and none that runs"),
        pytest.param([None], [0.2, 0.3], [0.1, 600], 1, id="one of two will soon end"),
        pytest.param([5, None], [0.2], [0.1], 0, id="the limit of the pool"),
        pytest.param([None, 0], [0.2], [0.1], 0, id="the limit of a queue"),
        pytest.param([None], [], [0.1], 0, id="nothing is known yet"),
        pytest.param([None], [0.2, 3.0], [0.1, 0.1], 0, id="one was long"),
        pytest.param([None], [0.2, 0.3], [3.0, 600], 0, id="all that run are long"),
    ],
)
def test_runs_are_claimed_ahead_only_where_they_will_have_a_process_soon(
    limits: list[int | None], ended: list[float], running: list[float], expected: int
) -> None:
    ahead = runs_to_claim_ahead(limits=limits, ended_seconds=ended, running_seconds=running)

    assert ahead == expected


ME = Owner(worker="w1", machine="alpha", pid=100, started=1_000)


@pytest.mark.parametrize(
    "owner",
    [ME, Owner("a: b/c%", "höst", 1, 2), Owner("w", "h", 1, 2, job=(3, 4))],
)
def test_an_owner_is_found_again_in_what_was_written(owner: Owner) -> None:
    assert find_owner(str(owner)) == owner
    assert find_owner(f"Claimed by worker 'w' ({owner})") == owner


@pytest.mark.parametrize("text", [None, "", "12345", "my-host:12345"])
def test_what_another_kind_of_worker_wrote_names_no_owner(text: str | None) -> None:
    assert find_owner(text) is None


@pytest.mark.parametrize(
    ("owner", "gone"),
    [
        pytest.param(ME, False, id="myself"),
        pytest.param(Owner("w2", "alpha", 200, 2_000), False, id="lives here"),
        pytest.param(Owner("w2", "alpha", 200, 900), True, id="its process id is reused"),
        pytest.param(Owner("w2", "alpha", 300, 2_000), True, id="died here"),
        pytest.param(Owner("w1", "alpha", 99, 900), True, id="my predecessor here"),
        pytest.param(Owner("w3", "beta", 1, 1), False, id="online elsewhere"),
        pytest.param(Owner("w4", "beta", 1, 1), True, id="offline elsewhere"),
        pytest.param(Owner("w1", "beta", 1, 1), True, id="my predecessor elsewhere"),
    ],
)
def test_a_worker_is_gone_when_its_process_or_its_heartbeat_is(owner: Owner, gone: bool) -> None:
    surroundings = Surroundings(
        me=ME,
        started_by_pid={100: 1_000, 200: 2_000},
        online_workers=frozenset({"w1", "w2", "w3"}),
    )

    assert is_gone(owner, surroundings) is gone


@pytest.mark.parametrize(
    ("state", "has_started", "run_count", "retries", "expected"),
    [
        ("PENDING", False, 0, None, Verdict.RUN_AGAIN),
        ("PENDING", False, 3, None, Verdict.RUN_AGAIN),
        ("SCHEDULED", True, 1, 1, Verdict.RUN_AGAIN),
        ("RUNNING", True, 1, None, Verdict.CRASH),
        ("RUNNING", True, 1, 0, Verdict.CRASH),
        ("RUNNING", True, 1, 1, Verdict.RUN_AGAIN),
        ("RUNNING", True, 2, 1, Verdict.CRASH),
        ("CANCELLING", True, 1, 5, Verdict.CANCEL),
    ],
)
def test_a_run_without_a_worker_runs_again_only_where_that_was_asked_for(
    state: str, has_started: bool, run_count: int, retries: int | None, expected: Verdict
) -> None:
    verdict = judge_orphan(
        state=state, has_started=has_started, run_count=run_count, retries=retries
    )

    assert verdict is expected


def at(seconds: float, state: State[Any]) -> State[Any]:
    """The state as if it had been asked for then."""
    state.timestamp = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return state


def pending(scheduled_for: datetime | None) -> State[Any]:
    return Pending(state_details=StateDetails.model_validate({"scheduled_time": scheduled_for}))


DUE = datetime(2026, 1, 1, tzinfo=UTC)
RETRY = DUE + timedelta(seconds=9)


def test_a_claim_that_waited_until_the_run_had_ended_took_the_place_of_its_end() -> None:
    ours = at(1.1, pending(None))
    end = at(3, Completed())
    others = [at(0, Scheduled()), at(1, pending(DUE)), at(2, Running()), end]

    assert find_replaced(ours, others) == end


def test_after_several_attempts_it_is_the_newest_end() -> None:
    ours = at(6, pending(None))
    others = [at(1, Failed()), at(2, Scheduled()), at(5, Failed(message="again"))]

    replaced = find_replaced(ours, others)

    assert replaced is not None
    assert replaced.message == "again"


def test_a_claim_took_the_place_of_what_was_scheduled_for_its_time() -> None:
    first = at(0, Scheduled(scheduled_time=DUE))
    retry = at(4, AwaitingRetry(scheduled_time=RETRY))
    others = [first, at(1, pending(DUE)), at(2, Running()), retry]

    assert find_replaced(at(1.1, pending(RETRY)), others) == retry
    assert find_replaced(at(1.1, pending(DUE)), others) == first


def test_any_other_state_took_the_place_of_the_newest() -> None:
    end = at(3, Failed())
    others = [at(0, Scheduled()), at(2, Running()), end]

    assert find_replaced(at(4, AwaitingRetry()), others) == end


def test_a_first_state_took_no_place() -> None:
    assert find_replaced(pending(None), []) is None


def test_the_variable_of_processes_is_the_one_that_jobs_read() -> None:
    assert PROCESS_VARIABLE == DEFINITION_VARIABLE
