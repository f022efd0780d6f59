"""What applications and authors of processors test with; nothing here is for production.

Three means, from the lightest:

* `InMemoryGateway` stands in for the Prefect server, so that a `PrefectManager`, and an
  application around it, run without one. Results go wherever ``result_storage`` of the
  configuration says; ``memory://tests`` keeps them in memory too.
* `run_job` then does the part of the worker for a job that was submitted.
* `run_process` executes a process under Prefect's engine, retries, tasks, caching and
  all. It needs a Prefect API, which `prefect.testing.utilities.prefect_test_harness`
  starts for as long as a test session lasts.
"""

import asyncio
import datetime as dt
import inspect
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, override

from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.flows import Flow
from prefect.states import (
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Pending,
    Running,
    Scheduled,
    format_exception,
)
from pygeoapi.plugin import load_plugin
from pygeoapi.process.base import BaseProcessor

from pygeoapi_prefect import execution
from pygeoapi_prefect.config import ManagerConfiguration
from pygeoapi_prefect.errors import (
    BackendUnreachable,
    ConfigurationError,
    DeploymentNotFound,
    JobNotFound,
)
from pygeoapi_prefect.gateway import PrefectGateway, TaggedDeployment, TaskCount
from pygeoapi_prefect.jobs import (
    ALL_JOBS,
    CALLBACK_TAG,
    WEB_RUN_STATES,
    Job,
    JobFilter,
    JobPage,
    job_of_run,
    run_name,
    run_tags,
)
from pygeoapi_prefect.logs import LogLine, LogPosition
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.outputs import load_outputs
from pygeoapi_prefect.processes import load_process
from pygeoapi_prefect.storage import open_storage


class InMemoryGateway(PrefectGateway):
    """Jobs as flow runs in a dictionary, which nothing executes unless it is told to.

    A job is moved on with `set_state`, or by `run_job`. Synchronous jobs reach it only
    where they run through deployments (``sync_through_deployments`` of the manager's
    configuration): in the web process they would run under Prefect's engine, which asks
    its API.

    Args:
        deployments: Parameter names by full name of those deployments that exist. By
            default, every deployment exists and takes all parameters.

    Attributes:
        runs: The flow runs by job id, oldest first.
        task_counts: Ended and known task runs by job id; none where a job is missing.
        logs: Log lines by job id.
        tagged: Deployments that can be found by their tags.
        unavailable: While true, every call raises `BackendUnreachable`, as calls do when
            the Prefect server is down.
        worker: Called with each job that somebody waits for, before the waiting; for
            example a function that calls `run_job`.
    """

    def __init__(self, deployments: Mapping[str, Collection[str]] | None = None) -> None:
        self.runs: dict[str, FlowRun] = {}
        self.task_counts: dict[str, TaskCount] = {}
        self.logs: dict[str, list[LogLine]] = {}
        self.tagged: list[TaggedDeployment] = []
        self.unavailable = False
        self.worker: Callable[[Job], object] | None = None
        self._deployments = deployments
        self._changed = threading.Condition()

    @override
    def close(self) -> None:
        """There are no connections."""

    def set_state(self, job_id: str, state: State[Any]) -> Job:
        """Give a job a state of `prefect.states`, as a worker would. Raises `JobNotFound`.

        As on the Prefect server, one that is being dismissed becomes `Cancelled`, and nothing else.
        """
        with self._changed:
            run = self._run(job_id)
            if run.state_type is StateType.CANCELLING and not state.is_cancelled():
                return job_of_run(run)
            changes: dict[str, Any] = {
                "state": state,
                "state_type": state.type,
                "state_name": state.name,
            }
            if state.is_running() and run.start_time is None:
                changes["start_time"] = state.timestamp
            if state.is_final():
                changes["end_time"] = state.timestamp
            self.runs[job_id] = run.model_copy(update=changes)
            self._changed.notify_all()
            return job_of_run(self.runs[job_id])

    @override
    def submit(
        self,
        *,
        job_id: str,
        process_id: str,
        deployment: str,
        parameters: Mapping[str, Any],
        labels: Mapping[str, str],
        work_queue: str | None = None,
    ) -> Job:
        self._require_available()
        taken = dict(parameters)
        if self._deployments is not None:
            if deployment not in self._deployments:
                raise DeploymentNotFound(f"Prefect has no deployment {deployment!r}")
            declared = self._deployments[deployment]
            taken = {name: value for name, value in parameters.items() if name in declared}
        run = self._added(job_id, process_id, taken, labels, Scheduled(), deployment, work_queue)
        return job_of_run(run)

    @override
    def create_run(
        self,
        flow: Flow[..., Any],
        *,
        job_id: str,
        process_id: str,
        parameters: Mapping[str, Any],
        labels: Mapping[str, str],
    ) -> FlowRun:
        self._require_available()
        return self._added(job_id, process_id, parameters, labels, Pending())

    @override
    def tagged_deployments(self, tags: Collection[str]) -> list[TaggedDeployment]:
        self._require_available()
        found = [one for one in self.tagged if one.tags.issuperset(tags)]
        return sorted(found, key=lambda deployment: deployment.name)

    @override
    def find(self, job_id: str) -> Job:
        self._require_available()
        return job_of_run(self._run(job_id))

    @override
    def page(self, job_filter: JobFilter = ALL_JOBS, *, limit: int, offset: int = 0) -> JobPage:
        self._require_available()
        with self._changed:
            jobs = [job_of_run(run) for run in reversed(self.runs.values())]
        now = dt.datetime.now(dt.UTC)
        fitting = [job for job in jobs if _fits(job_filter, job, now)]
        end = min(offset + limit, len(fitting))
        return JobPage(
            jobs=fitting[offset:end],
            number_matched=len(fitting),
            next_offset=end if end < len(fitting) else None,
        )

    @override
    def wait(self, job: Job, timeout_seconds: float) -> Job:
        if self.worker is not None:
            self.worker(job)
        last_seen = job

        def has_ended() -> bool:
            nonlocal last_seen
            if not self.unavailable:
                last_seen = job_of_run(self._run(job.job_id))
            return last_seen.has_ended

        with self._changed:
            self._changed.wait_for(has_ended, timeout_seconds)
        return last_seen

    @override
    def look(self, job_id: str) -> Job:
        job = self.find(job_id)
        tasks = self.count_tasks(job)
        return job.with_tasks(ended=tasks.ended, known=tasks.known)

    @override
    def count_tasks(self, job: Job) -> TaskCount:
        self._require_available()
        return self.task_counts.get(job.job_id, TaskCount(ended=0, known=0))

    @override
    def log(self, job: Job, position: LogPosition, limit: int) -> list[LogLine]:
        self._require_available()
        lines = sorted(self.logs.get(job.job_id, ()), key=lambda line: line.time)
        start = position.time
        from_time = [line for line in lines if start is None or line.time >= start]
        return from_time[position.lines :][:limit]

    @override
    def ended(self, *, before: dt.datetime | None, offset: int, limit: int) -> list[Job]:
        self._require_available()
        with self._changed:
            runs = [
                run for run in reversed(self.runs.values()) if run.state and run.state.is_final()
            ]
        jobs = [
            job_of_run(run)
            for run in runs
            if before is None or (run.end_time is not None and run.end_time <= before)
        ]
        return jobs[offset : offset + limit]

    @override
    def label(self, job: Job, labels: Mapping[str, str]) -> None:
        self._change(job, lambda run: {"labels": {**run.labels, **labels}})

    @override
    def awaiting_callbacks(self) -> list[Job]:
        self._require_available()
        with self._changed:
            runs = [run for run in reversed(self.runs.values()) if CALLBACK_TAG in run.tags]
        told = [
            run for run in runs if run.state and (run.state.is_running() or run.state.is_final())
        ]
        waiting = [run for run in runs if run not in told]
        return [job_of_run(run) for run in (*told, *waiting[:1])]

    @override
    def settle_callbacks(self, job: Job) -> None:
        self._change(job, lambda run: {"tags": [tag for tag in run.tags if tag != CALLBACK_TAG]})

    @override
    def web_jobs(self) -> list[Job]:
        self._require_available()
        with self._changed:
            runs = [
                run
                for run in self.runs.values()
                if run.state_type in WEB_RUN_STATES and run.deployment_id is None
            ]
        return [job for job in map(job_of_run, runs) if job.web_process is not None]

    @override
    def dismissed(self, flow_run_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        self._require_available()
        stopped = {StateType.CANCELLING, StateType.CANCELLED}
        with self._changed:
            going_on = {run.id for run in self.runs.values() if run.state_type not in stopped}
        return set(flow_run_ids) - going_on

    @override
    def cancel(self, job: Job) -> Job:
        current = self.find(job.job_id)
        if current.has_ended or current.stopping:
            return current
        # as the Prefect server has it: what nobody has picked up needs no stopping
        is_picked_up = self._run(job.job_id).state_type is not StateType.SCHEDULED
        return self.set_state(job.job_id, Cancelling() if is_picked_up else Cancelled())

    @override
    def crash(self, job: Job, message: str) -> None:
        current = self.find(job.job_id)
        if current.stopping:
            self.set_state(job.job_id, Cancelled())
        elif not current.has_ended:
            self.set_state(job.job_id, Crashed(message=message))

    @override
    def delete(self, job: Job) -> None:
        self._require_available()
        with self._changed:
            self._run(job.job_id)
            del self.runs[job.job_id]

    def _change(self, job: Job, changes: Callable[[FlowRun], dict[str, Any]]) -> None:
        self._require_available()
        with self._changed:
            run = self._run(job.job_id)
            self.runs[job.job_id] = run.model_copy(update=changes(run))

    def _require_available(self) -> None:
        if self.unavailable:
            raise BackendUnreachable("the Prefect server cannot be reached; try again later")

    def _run(self, job_id: str) -> FlowRun:
        try:
            return self.runs[job_id]
        except KeyError:
            raise JobNotFound(f"there is no job {job_id}") from None

    def _added(
        self,
        job_id: str,
        process_id: str,
        parameters: Mapping[str, Any],
        labels: Mapping[str, str],
        state: State[Any],
        deployment: str | None = None,
        work_queue: str | None = None,
    ) -> FlowRun:
        run = FlowRun.model_validate(
            {
                "id": uuid.uuid4(),
                "name": run_name(job_id),
                "idempotency_key": run_name(job_id),
                "flow_id": uuid.uuid5(uuid.NAMESPACE_URL, process_id),
                "deployment_id": uuid.uuid5(uuid.NAMESPACE_URL, deployment) if deployment else None,
                "created": state.timestamp,
                "parameters": dict(parameters),
                "tags": run_tags(process_id, labels),
                "labels": dict(labels),
                "work_queue_name": work_queue,
                "state": state,
                "state_type": state.type,
                "state_name": state.name,
            }
        )
        with self._changed:
            return self.runs.setdefault(job_id, run)


def _fits(job_filter: JobFilter, job: Job, now: dt.datetime) -> bool:
    """Tell whether a job meets all criteria, which the Prefect server tells otherwise."""
    return (
        (job_filter.process_ids is None or job.process_id in job_filter.process_ids)
        and (job_filter.statuses is None or job.status in job_filter.statuses)
        and (job_filter.created_from is None or job.created >= job_filter.created_from)
        and (job_filter.created_until is None or job.created <= job_filter.created_until)
        and job_filter.fits_duration(job, now)
    )


def run_job(manager: PrefectManager, job: Job) -> Job:
    """Do what a worker does for a job that was submitted to an `InMemoryGateway`.

    The process is executed here and now, its outputs are stored, and the job gets the state
    that comes of it. Prefect's engine takes no part: there are no retries, timeouts or
    hooks, and a flow that calls tasks, loads blocks or asks for its run's context fails.
    `run_process` is for those.

    Args:
        manager: A manager made with an `InMemoryGateway`.
        job: The job, as `InMemoryGateway.find` or `PrefectManager.gateway` returns it.

    Raises:
        ConfigurationError: The process has no Python class, so there is nothing to execute.
        TypeError: The manager has another gateway.
    """
    gateway = manager.gateway
    if not isinstance(gateway, InMemoryGateway):
        raise TypeError("only jobs of an InMemoryGateway are run here; others have workers")
    flow = manager.process(job.process_id).flow
    if flow is None:
        raise ConfigurationError(f"process {job.process_id} has no Python class to execute")
    gateway.set_state(job.job_id, Running())
    try:
        _call(flow.fn, job.parameters)
    except Exception as error:  # as the engine does: it is the job that fails
        message = f"Flow run encountered an exception: {format_exception(error)}"
        return gateway.set_state(job.job_id, Failed(message=message))
    return gateway.set_state(job.job_id, Completed())


def run_process(
    processor_class: type[BaseProcessor],
    inputs: Mapping[str, Any],
    *,
    folder: Path,
    outputs: Mapping[str, Any] | None = None,
) -> dict[str, tuple[str, bytes]]:
    """Execute a process as a job of it is executed, and return what a client would get.

    Inputs are checked against the description; the flow runs under Prefect's engine, so a
    Prefect API must be there: a test session gets one from
    `prefect.testing.utilities.prefect_test_harness`.

    Args:
        processor_class: Class of the processor, importable by its dotted path; its
            description has an ``id``.
        inputs: Inputs by id, as a client sends them.
        folder: Directory for the files of the job.
        outputs: Those outputs that are wanted, as a client asks for them; all by default.

    Returns:
        Media type and content of each output that was stored, by output id.

    Raises:
        InvalidRequest: Inputs or outputs do not fit the description.
        ConfigurationError: The class is no usable processor.
        Exception: Whatever the flow raises.
    """
    class_path = f"{processor_class.__module__}.{processor_class.__qualname__}"
    process_id = str(load_plugin("process", {"name": class_path}).metadata["id"])
    process = load_process(
        process_id,
        {"type": "process", "processor": {"name": class_path}},
        ManagerConfiguration(name="PrefectManager", result_storage=str(folder.absolute())),
    )
    plan = execution.plan(
        process_id, process.description, {"inputs": inputs, "outputs": outputs}, None
    )
    parameters = {"job_id": plan.job_id, "execution_request": plan.request_text}
    assert process.flow is not None  # noqa: S101  a process with a class has one
    _call(process.flow, parameters)
    storage = open_storage(process.definition.result_storage)
    return {
        output_id: (stored.media_type, storage.read(stored.key))
        for output_id, stored in load_outputs(storage, plan.job_id).items()
        if not plan.wishes.are_named or output_id in plan.wishes.outputs
    }


def _call(function: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
    returned = function(**parameters)
    if inspect.iscoroutine(returned):
        asyncio.run(returned)
