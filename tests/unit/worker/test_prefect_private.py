"""What the worker relies on and Prefect does not promise.

A failure here means that a new Prefect version changed it: look at the named place
before allowing that version.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args
from uuid import UUID, uuid4

import pytest
from prefect import flow, flow_engine
from prefect._internal import control_listener
from prefect._internal.attempt_control import EngineOutcomeReceipt
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort, Pause
from prefect.logging.loggers import flow_run_logger
from prefect.runner._hook_runner import HookRunner
from prefect.states import Pending, Running
from prefect.utilities.engine import capture_sigterm
from prefect.workers.base import BaseJobConfiguration, BaseWorker

import pygeoapi_prefect
from pygeoapi_prefect import prefect_private


def parameters_of(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_the_engine_finds_the_observer_of_suspensions_as_a_name_of_its_module() -> None:
    calls = inspect.getsource(flow_engine.BaseFlowRunEngine.setup_flow_run_suspension_request)

    assert "observe_flow_run_suspension(\n" in calls
    assert inspect.isfunction(vars(flow_engine)["observe_flow_run_suspension"])
    assert parameters_of(vars(flow_engine)["observe_flow_run_suspension"])[:2] == parameters_of(
        prefect_private.suspension_is_told_by_the_worker
    )


def test_the_engine_updates_a_run_with_keywords_before_it_starts_it() -> None:
    source = inspect.getsource(flow_engine.FlowRunEngine.initialize_run)

    assert re.search(r"self\.client\.update_flow_run\(\s*flow_run_id=", source)
    assert "infrastructure_pid" in parameters_of(SyncPrefectClient.update_flow_run)


def test_the_engine_uses_the_client_of_the_context_that_is_open() -> None:
    assert "SyncClientContext.get_or_create()" in inspect.getsource(
        flow_engine.FlowRunEngine.initialize_run
    )
    assert "AsyncClientContext.get_or_create()" in inspect.getsource(
        flow_engine.AsyncFlowRunEngine.initialize_run
    )
    assert inspect.iscoroutinefunction(flow_engine.run_flow_async)


def test_the_engine_asks_why_sigterm_came() -> None:
    assert parameters_of(control_listener._set_intent) == ["value"]
    assert control_listener.get_intent() is None
    assert flow_engine._termination_intent() is None
    known = {"cancel", *flow_engine._SUPERVISOR_OWNED_INTENTS}
    assert set(get_args(prefect_private.Intent)) <= known


def test_without_a_flow_nobody_listens_to_sigterm() -> None:
    assert prefect_private.tell_engine_why_sigterm_comes("cancel") is False
    assert control_listener.get_intent() is None


def test_while_a_flow_runs_the_engine_learns_why_sigterm_comes() -> None:
    try:
        with capture_sigterm():
            assert prefect_private.tell_engine_why_sigterm_comes("reschedule") is True
            assert control_listener.get_intent() == "reschedule"
    finally:
        control_listener.reset_for_testing()


@flow
def takes_nothing() -> None:
    """A flow that has not to run."""


def no_stamp(_: PrefectClient) -> None:
    """For runs that come to no client."""


@pytest.fixture
def reported_end() -> Iterator[None]:
    """The engine of this process has told how a run ended."""
    control_listener.report_engine_outcome(EngineOutcomeReceipt.orchestration_aborted())
    assert control_listener.engine_outcome_is_handled()
    yield
    control_listener.reset_for_testing()


@pytest.mark.usefixtures("reported_end")
def test_the_end_of_one_run_says_nothing_of_the_next() -> None:
    run = FlowRun(flow_id=uuid4(), parameters={"unknown": 1})

    exit_code = prefect_private.run_flow(takes_nothing, run, flow_run_logger(run), no_stamp)

    assert exit_code == 1
    assert not control_listener.engine_outcome_is_handled()


@pytest.mark.usefixtures("reported_end")
@pytest.mark.parametrize("error", [Abort("no"), Pause("later")])
def test_what_prefect_has_decided_is_an_end_that_it_knows(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_error(*_: object, **__: object) -> None:
        raise error

    run = FlowRun(flow_id=uuid4())
    monkeypatch.setattr(flow_engine, "run_flow", raise_error)

    assert prefect_private.run_flow(takes_nothing, run, flow_run_logger(run), no_stamp) == 0


@pytest.mark.usefixtures("reported_end")
def test_a_process_that_exits_well_has_not_told_how_the_run_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def leave(*_: object, **__: object) -> None:
        sys.exit(0)

    run = FlowRun(flow_id=uuid4())
    monkeypatch.setattr(flow_engine, "run_flow", leave)

    assert prefect_private.run_flow(takes_nothing, run, flow_run_logger(run), no_stamp) == 1


def test_heartbeats_are_off_where_their_setting_is_none() -> None:
    source = inspect.getsource(flow_engine._send_heartbeats)

    assert "heartbeat_seconds is None" in source


def test_the_engine_reads_a_run_again_after_it_has_set_it_running() -> None:
    read = inspect.getsource(flow_engine.FlowRunEngine.setup_run_context)
    keep = inspect.getsource(flow_engine.FlowRunEngine.set_state)

    assert "self.flow_run = client.read_flow_run(self.flow_run.id)" in read
    # the copy that the engine was given has the accepted state
    assert re.search(r"self\.flow_run\.state = state\b", keep)
    assert parameters_of(SyncPrefectClient.read_flow_run) == ["self", "flow_run_id"]


class Client:
    """Answers each read of a run with one that says so."""

    def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        return FlowRun(id=flow_run_id, flow_id=uuid4(), name="of the server")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "of the claim"),
        ({"run_count": 1}, "of the server"),
        ({"work_pool_name": None}, "of the server"),
        ({"state": Pending()}, "of the server"),
    ],
    ids=["first attempt", "later attempt", "incomplete", "not running"],
)
def test_the_first_read_of_a_run_is_answered_where_that_can_be_known(
    changes: dict[str, Any], expected: str
) -> None:
    claimed = FlowRun(
        flow_id=uuid4(), name="of the claim", state=Running(), work_pool_name="pool"
    ).model_copy(update=changes)
    own_runs = {claimed.id: claimed}
    client = cast("SyncPrefectClient", Client())
    prefect_private.answer_first_read(client, lambda run_id: own_runs.pop(run_id, None))

    first, second, other = map(client.read_flow_run, (claimed.id, claimed.id, uuid4()))

    assert [first.name, second.name, other.name] == [expected, "of the server", "of the server"]
    if expected == "of the claim":
        assert first.run_count == 1
        assert claimed.state is not None
        assert (first.state_id, first.start_time) == (claimed.state.id, claimed.state.timestamp)


def test_the_default_result_storage_is_read_through_the_client() -> None:
    assert parameters_of(SyncPrefectClient.read_server_default_result_storage) == ["self"]


@pytest.mark.parametrize(("value", "by_engine"), [("false", False), ("true", True)])
def test_the_engine_leaves_hooks_to_the_worker_where_a_variable_says_so(
    monkeypatch: pytest.MonkeyPatch, value: str, by_engine: bool
) -> None:
    engine = flow_engine.FlowRunEngine(flow=takes_nothing)
    monkeypatch.setenv(prefect_private.ENGINE_RUNS_HOOKS, value)

    assert engine._engine_owns_cancellation_handling() is by_engine


def test_hooks_are_run_for_a_flow_run_and_a_state() -> None:
    expected = ["self", "flow_run", "state"]

    assert parameters_of(HookRunner.run_cancellation_hooks) == expected
    assert parameters_of(HookRunner.run_crashed_hooks) == expected


@pytest.mark.parametrize("name", prefect_private.WORKER_ATTRIBUTES)
def test_the_worker_base_class_has_the_attributes_that_ours_uses(name: str) -> None:
    source = inspect.getsource(BaseWorker)

    assert re.search(rf"self\.{name}\b", source)


@pytest.mark.parametrize("name", prefect_private.JOB_CONFIGURATION_METHODS)
def test_the_job_configuration_calls_what_ours_overrides(name: str) -> None:
    assert f"self.{name}()" in inspect.getsource(BaseJobConfiguration.prepare_for_flow_run)


def test_exit_codes_are_explained() -> None:
    assert "SIGKILL" in prefect_private.explain_exit_code(-9)


def test_private_names_of_prefect_are_imported_in_one_module_only() -> None:
    package = Path(pygeoapi_prefect.__file__).parent
    private = re.compile(
        r"^\s*(from prefect\S*\._|from prefect\S* import .*\b_|import prefect\S*\._)"
    )

    culprits = [
        f"{path.name}: {line.strip()}"
        for path in package.rglob("*.py")
        if path.name != "prefect_private.py"
        for line in path.read_text().splitlines()
        if private.match(line)
    ]

    assert culprits == []
