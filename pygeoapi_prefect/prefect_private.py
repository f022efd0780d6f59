"""Every interface of Prefect that Prefect does not call public, and why it is needed.

Nothing else in this package imports a Prefect name that starts with an underscore, or
overrides or reads such an attribute. `tests/unit/worker/test_prefect_private.py` holds
what is relied upon and names what changed when a new Prefect breaks it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol, cast
from uuid import UUID

from prefect import flow_engine
from prefect._flow_run_suspension import (
    FlowRunSuspensionRequest,
    mark_flow_run_suspension_requested,
)
from prefect._internal import control_listener
from prefect._internal.infrastructure_exit_codes import get_infrastructure_exit_info
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import AsyncClientContext
from prefect.engine import _drive_run_flow_result, handle_engine_signals
from prefect.events.worker import EventsWorker
from prefect.exceptions import Abort, Pause, TerminationSignal
from prefect.flows import Flow
from prefect.logging.handlers import APILogWorker
from prefect.logging.loggers import PrefectLogAdapter
from prefect.runner._hook_runner import HookRunner
from prefect.utilities.engine import commit_control_intent_and_ack

__all__ = [
    "ENGINE_RUNS_HOOKS",
    "Intent",
    "answer_first_read",
    "drain_background_services",
    "explain_exit_code",
    "mark_flow_run_suspension_requested",
    "observe_suspension_with",
    "remember_default_storage",
    "run_flow",
    "run_hooks",
    "stamp_infrastructure",
    "suspension_is_told_by_the_worker",
    "tell_engine_why_sigterm_comes",
]

Intent = Literal["cancel", "reschedule"]

# What `worker.py` reads or sets of its base class
WORKER_ATTRIBUTES = (
    "_client",
    "_has_successfully_synced",
    "_last_polled_time",
    "_limit",
    "_logger",
    "_runs_task_group",
    "_work_pool",
    "_work_pool_name",
    "_work_queues",
)
# By which the engine leaves hooks for cancelled and crashed runs to others
ENGINE_RUNS_HOOKS = "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS"
# What `configuration.py` overrides of its base class
JOB_CONFIGURATION_METHODS = ("_base_environment",)


class SuspensionObserver(Protocol):
    """What the flow engine calls around a deployed flow run."""

    def __call__(
        self, flow_run_id: UUID, suspension_request: FlowRunSuspensionRequest
    ) -> AbstractContextManager[None]: ...


def observe_suspension_with(observer: SuspensionObserver) -> None:
    """Let the flow engine of this process use `observer` for deployed flow runs.

    Prefect's own one opens a websocket and a new client for each run and takes up to
    0.2 s to close them; the worker holds one subscription for all of its processes.
    """
    setattr(flow_engine, "observe_flow_run_suspension", observer)  # noqa: B010 - not exported


@contextmanager
def suspension_is_told_by_the_worker(
    flow_run_id: UUID, suspension_request: FlowRunSuspensionRequest
) -> Iterator[None]:
    """Observe nothing: the worker calls `mark_flow_run_suspension_requested`."""
    del flow_run_id, suspension_request
    yield


def tell_engine_why_sigterm_comes(intent: Intent) -> bool:
    """Make the flow engine of this process treat the next SIGTERM as `intent`.

    Without it the engine reports a run that gets SIGTERM as crashed.

    Returns:
        False where no flow engine listens to SIGTERM now.
    """
    return commit_control_intent_and_ack(
        commit_intent=lambda: control_listener._set_intent(intent),  # noqa: SLF001
        clear_intent=control_listener.clear_intent,
        send_ack=lambda: None,
    )


def run_flow(
    flow: Flow[..., Any],
    flow_run: FlowRun,
    logger: PrefectLogAdapter,
    prepare: Callable[[PrefectClient], None],
) -> int:
    """Run a flow as `python -m prefect.engine` does, and wait for its end.

    Args:
        flow: to run.
        flow_run: as it was claimed.
        logger: of the run.
        prepare: is given the client of an asynchronous flow, which its engine makes for itself.

    Returns:
        An exit code: 0 where Prefect knows how the run ended.
    """
    # Prefect resets it once in a process. With the answer about the run before, it would
    # take any error of this one for an end that was reported.
    setattr(control_listener, "_engine_outcome_handled", False)  # noqa: B010 - not exported
    try:
        with handle_engine_signals(flow_run.id):
            result = flow_engine.run_flow(
                flow,
                flow_run=flow_run,
                # annotated as a plain logger, and given such an adapter by Prefect itself
                error_logger=cast(logging.Logger, logger),
            )
            if asyncio.iscoroutine(result):
                result = _with_client(result, prepare)
            _drive_run_flow_result(flow, result)
    except SystemExit as exit_:
        if exit_.code != 0:
            return exit_.code if isinstance(exit_.code, int) else 1
        # what Prefect turned into an exit: the run goes on, or ends, as others have decided
        if isinstance(exit_.__context__, Abort | Pause | TerminationSignal):
            return 0
    return 0 if control_listener.engine_outcome_is_handled() else 1


async def _with_client(
    running: Coroutine[Any, Any, Any], prepare: Callable[[PrefectClient], None]
) -> None:
    # the engine takes the client of the context that is open
    async with AsyncClientContext.get_or_create() as context:
        prepare(context.client)
        await running


def explain_exit_code(exit_code: int) -> str:
    """Prefect's own sentence about the exit code of a process that ran a flow."""
    return get_infrastructure_exit_info(exit_code).explanation


def drain_background_services(timeout_seconds: float) -> None:
    """Send the logs and events that this process still holds to the Prefect API."""
    APILogWorker.drain_all(timeout=timeout_seconds)
    EventsWorker.drain_all(timeout=timeout_seconds)


def stamp_infrastructure(
    client: SyncPrefectClient | PrefectClient, infrastructure_of: Callable[[UUID], str | None]
) -> None:
    """Add the infrastructure id to the update that the flow engine sends anyway.

    The engine updates each flow run once before it starts; a second call just for the
    id would cost as much again.
    """
    plain_update = client.update_flow_run

    def update_flow_run(flow_run_id: UUID, **changes: Any) -> Any:
        infrastructure_pid = infrastructure_of(flow_run_id)
        return plain_update(flow_run_id, **{"infrastructure_pid": infrastructure_pid} | changes)

    setattr(client, "update_flow_run", update_flow_run)  # noqa: B010 - mypy: assigned method


def answer_first_read(
    client: SyncPrefectClient, take_own_run: Callable[[UUID], FlowRun | None]
) -> None:
    """Answer the first read of a run that the flow engine has just set running by itself.

    The engine keeps the accepted state in its copy of the run. The rest of what the server
    changes with that state is known for a first attempt.

    Args:
        client: of the flow engine.
        take_own_run: gives the copy that the engine was given, once, with what the engine
            tells the server before it starts the run.
    """
    plain_read = client.read_flow_run

    def read_flow_run(flow_run_id: UUID) -> FlowRun:
        run = take_own_run(flow_run_id)
        if run is None or run.state is None or not run.state.is_running():
            return plain_read(flow_run_id)
        # Prefect's list of what may start leaves out the names of pool and queue
        if run.run_count > 0 or run.work_pool_name is None:
            return plain_read(flow_run_id)
        changes = {
            "state_id": run.state.id,
            "run_count": 1,
            "start_time": run.state.timestamp,
            "next_scheduled_start_time": None,
        }
        return run.model_copy(update=changes)

    setattr(client, "read_flow_run", read_flow_run)  # noqa: B010 - mypy: assigned method


def remember_default_storage(client: SyncPrefectClient, seconds: float) -> None:
    """Ask the server for its default result storage at most every `seconds`.

    The engine asks twice for each flow run, a quarter of all that it asks.
    """
    plain_read = client.read_server_default_result_storage
    answers: dict[str, tuple[float, Any]] = {}

    def read_server_default_result_storage() -> Any:
        read_at, answer = answers.get("", (-math.inf, None))
        if time.monotonic() - read_at >= seconds:
            read_at, answer = time.monotonic(), plain_read()
            answers[""] = read_at, answer
        return answer

    setattr(  # noqa: B010 - mypy: assigned method
        client, "read_server_default_result_storage", read_server_default_result_storage
    )


async def run_hooks(
    kind: Literal["cancellation", "crashed"],
    *,
    flow: Flow[..., Any],
    flow_run: FlowRun,
    state: State[Any],
) -> None:
    """Run the hooks of a flow whose own process can no longer do it."""

    async def resolve_flow(_: FlowRun) -> Flow[..., Any]:
        return flow

    hooks = HookRunner(resolve_flow=resolve_flow)
    if kind == "cancellation":
        await hooks.run_cancellation_hooks(flow_run, state)
    else:
        await hooks.run_crashed_hooks(flow_run, state)
