"""Jobs as the web side asks the Prefect API for them, over one `PrefectConnection`.

A server that does not answer is `BackendUnavailable`, never an empty list or an unknown job.
"""

import contextlib
import dataclasses
import datetime as dt
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from itertools import batched
from typing import Any, Final, NamedTuple, Protocol, override

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import FlowRunCreate, StateCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowFilter,
    FlowFilterId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterName,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTimestamp,
    TaskRunFilter,
    TaskRunFilterId,
)
from prefect.client.schemas.objects import (
    TERMINAL_STATES,
    FlowRun,
    FlowRunPolicy,
    State,
    StateType,
)
from prefect.client.schemas.responses import DeploymentResponse, OrchestrationResult
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort, LogSort, TaskRunSort
from prefect.flows import Flow
from prefect.states import Cancelled, Cancelling, Crashed

from pygeoapi_prefect.errors import (
    BackendUnavailable,
    DeploymentNotFound,
    ExecutionError,
    InvalidRequest,
    JobNotFound,
)
from pygeoapi_prefect.job_states import JobStates, RecentJobs
from pygeoapi_prefect.jobs import (
    ALL_JOBS,
    CALLBACK_TAG,
    JOB_TAG,
    WEB_RUN_STATES,
    Job,
    JobFilter,
    JobPage,
    job_of_run,
    run_name,
    run_tags,
)
from pygeoapi_prefect.logs import LogLine, LogPosition
from pygeoapi_prefect.prefect_connection import PrefectConnection
from pygeoapi_prefect.run_filters import run_filter_of
from pygeoapi_prefect.schemas import JobStatus

PAGE_MAX_RUNS: Final = 200
"""What one call of the Prefect API returns at most, with its default settings."""
SIFTED_MAX_RUNS: Final = 5 * PAGE_MAX_RUNS
"""How many runs one page of jobs, chosen by duration, looks at."""

FIRST_POLL_SECONDS: Final = 0.05
LONGEST_POLL_SECONDS: Final = 1.0
"""Between looks at a job, also where its end will be announced."""
AFTER_END_SECONDS: Final = 0.005

COUNTED_TIME: Final = dt.timedelta(days=1)
"""Before a job, and after now: task runs have times of the clocks of other machines."""

CALLBACK_TIME: Final = dt.timedelta(days=30)
"""After a job is made, its subscriber is told nothing any more."""

_TOLD_STATES: Final = (*TERMINAL_STATES, StateType.RUNNING)
"""Of runs whose subscribers there may be something to tell."""


class TaskCount(NamedTuple):
    """How many task runs a job has.

    Attributes:
        ended: In whatever way.
        known: All so far; a flow may start more.
    """

    ended: int
    known: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggedDeployment:
    """A deployment, as far as clients may know it.

    Attributes:
        name: Full name, ``flow name/deployment name``.
        parameter_schema: JSON schema of the parameters of its flow.
        preset: Parameters that have a value in the deployment.
    """

    name: str
    version: str | None = None
    description: str | None = None
    tags: frozenset[str] = frozenset()
    parameter_schema: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preset: frozenset[str] = frozenset()


class PrefectGateway(Protocol):
    """Jobs, as the web side asks the Prefect server for them.

    All methods but `close` and `wait` raise `BackendUnavailable` when the Prefect API does not
    answer.
    """

    def close(self) -> None:
        """Close the connections; the next call makes others."""

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
        """Create a run of a deployment (``flow name/deployment name``).

        The run gets those of the parameters that the deployment's flow declares, and goes to
        the work queue of the deployment, unless another one of its work pool is named.

        Raises:
            DeploymentNotFound: There is no such deployment.
            InvalidRequest: The parameters do not fit what the deployment's flow declares.
        """

    def create_run(
        self,
        flow: Flow[..., Any],
        *,
        job_id: str,
        process_id: str,
        parameters: Mapping[str, Any],
        labels: Mapping[str, str],
    ) -> FlowRun:
        """Create a run that the calling process will execute itself."""

    def tagged_deployments(self, tags: Collection[str]) -> list[TaggedDeployment]:
        """Return the deployments that have all of these tags, in the order of their names."""

    def find(self, job_id: str) -> Job:
        """Return a job. Raises `JobNotFound`."""

    def look(self, job_id: str) -> Job:
        """Return a job with the progress of its tasks, if it reports none itself.

        Some clients look all the time: a job that goes on can be as it was `LOOK_SECONDS`
        ago, as long as the Prefect server has not announced its end since.

        Raises:
            JobNotFound: There is no such job.
        """

    def page(self, job_filter: JobFilter = ALL_JOBS, *, limit: int, offset: int = 0) -> JobPage:
        """Return at most `limit` jobs, newest first, from `offset` on.

        Offsets are 0, or the `JobPage.next_offset` of another page with the same filter.
        """

    def wait(self, job: Job, timeout_seconds: float) -> Job:
        """Return a job as soon as it has ended, or as it is when the time is up.

        Where the Prefect API does not answer, it may be back in time. If it is not, the job is
        as it was when it was last seen: whoever waits knows at least that there is one.

        Raises:
            JobNotFound: It was removed meanwhile.
        """

    def count_tasks(self, job: Job) -> TaskCount:
        """Return how many task runs of a job have ended, and of how many known ones."""

    def log(self, job: Job, position: LogPosition, limit: int) -> list[LogLine]:
        """Return lines of a job's log, sub-flows and tasks included, in the order of their times.

        Args:
            job: The job.
            position: Where to start.
            limit: How many lines at most; no more than `logs.PAGE_MAX_LINES`.
        """

    def ended(self, *, before: dt.datetime | None, offset: int, limit: int) -> list[Job]:
        """Return jobs that have ended, then or earlier, newest first.

        Args:
            before: Up to which time; None for any.
            offset: How many newer ones to leave out.
            limit: How many at most; no more than `PAGE_MAX_RUNS`.
        """

    def label(self, job: Job, labels: Mapping[str, str]) -> None:
        """Add labels to the run of a job. Raises `JobNotFound`."""

    def awaiting_callbacks(self) -> list[Job]:
        """Return jobs whose subscribers are not told to the end: all that run or have ended.

        Of those that wait to run, there is one if there are any; and there is none of more than
        `CALLBACK_TIME` ago.
        """

    def settle_callbacks(self, job: Job) -> None:
        """Note that the subscriber of a job is told to the end. Raises `JobNotFound`."""

    def web_jobs(self) -> list[Job]:
        """Return the jobs that run, or should run, in web processes."""

    def dismissed(self, flow_run_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Return those of the flow runs whose jobs are dismissed or removed."""

    def cancel(self, job: Job) -> Job:
        """Dismiss a job that has not ended: its work is made to stop.

        Returns:
            The job as it is then, which may have ended in another way meanwhile.

        Raises:
            JobNotFound: It was removed meanwhile.
        """

    def crash(self, job: Job, message: str) -> None:
        """Mark a job ended whose process is gone: failed, or dismissed if that was to be.

        One that has ended stays as it is.

        Raises:
            JobNotFound: It was removed meanwhile.
        """

    def delete(self, job: Job) -> None:
        """Remove the run of a job, with its sub-flows and artifacts. Raises `JobNotFound`."""


@dataclasses.dataclass(frozen=True)
class _Deployment:
    deployment_id: uuid.UUID
    parameter_names: frozenset[str]


class ApiGateway(PrefectGateway):
    """The Prefect server at ``PREFECT_API_URL``, over one connection per process.

    A second one tells of their states, while somebody waits for jobs or looks at them often.

    Args:
        before_first_call: Called once in each process that uses the gateway, before its
            first call; again before the next one if it raises.
    """

    def __init__(self, before_first_call: Callable[[], None] | None = None) -> None:
        self._api = PrefectConnection(before_first_call)
        self._deployments: dict[str, _Deployment] = {}
        self._flow_ids: dict[str, uuid.UUID] = {}
        self._flow_names: dict[uuid.UUID, str] = {}
        self._states = JobStates()
        self._recent = RecentJobs(self._states)

    @override
    def close(self) -> None:
        self._states.close()
        self._api.close()

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
        missing = DeploymentNotFound(
            f"process {process_id} cannot run: Prefect has no deployment {deployment!r}; "
            "the operator creates it with `pygeoapi-prefect deploy`"
        )

        def create(client: SyncPrefectClient) -> FlowRun:
            target = self._deployment(client, deployment, parameters)
            return client.create_flow_run_from_deployment(
                target.deployment_id,
                parameters={
                    name: value
                    for name, value in parameters.items()
                    if name in target.parameter_names
                },
                name=run_name(job_id),
                idempotency_key=run_name(job_id),
                tags=run_tags(process_id, labels),
                labels=dict(labels),
                work_queue_name=work_queue,
            )

        began = time.monotonic()
        try:
            run = self._api.create(create, missing=missing)
        except (DeploymentNotFound, InvalidRequest):
            # it may have been changed, or deleted and made anew, since we learned of it
            self._deployments.pop(deployment, None)
            run = self._api.create(create, missing=missing)
        job = job_of_run(run)
        self._recent.remember(job, began)
        return job

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
        def create(client: SyncPrefectClient) -> FlowRun:
            # client.create_flow_run() knows neither labels nor idempotency keys, and asks
            # for the flow's id each time
            body = FlowRunCreate(
                flow_id=self._flow_id(client, flow.name),
                flow_version=flow.version,
                name=run_name(job_id),
                idempotency_key=run_name(job_id),
                parameters=dict(parameters),
                tags=run_tags(process_id, labels),
                labels=dict(labels),
                state=StateCreate(type=StateType.PENDING),
                empirical_policy=FlowRunPolicy(
                    retries=flow.retries, retry_delay=int(flow.retry_delay_seconds or 0)
                ),
            )
            response = client.request(
                "POST", "/flow_runs/", json=body.model_dump(mode="json", exclude_unset=True)
            )
            return FlowRun.model_validate(response.json())

        try:
            return self._api.create(create)
        except BackendUnavailable:
            raise
        except ExecutionError:
            self._flow_ids.pop(flow.name, None)  # somebody may have deleted the flow
            return self._api.create(create)

    @override
    def tagged_deployments(self, tags: Collection[str]) -> list[TaggedDeployment]:
        wanted = DeploymentFilter(tags=DeploymentFilterTags(all_=sorted(tags)))
        found: list[DeploymentResponse] = []
        while len(page := self._deployments_from(len(found), wanted)) == PAGE_MAX_RUNS:
            found += page
        found += page
        self._learn_flow_names({deployment.flow_id for deployment in found})
        return sorted(
            (
                TaggedDeployment(
                    name=f"{self._flow_names[deployment.flow_id]}/{deployment.name}",
                    version=deployment.version,
                    # what Prefect's client makes of None
                    description=None
                    if deployment.description == "None"
                    else deployment.description,
                    tags=frozenset(deployment.tags),
                    parameter_schema=deployment.parameter_openapi_schema or {},
                    preset=frozenset(deployment.parameters),
                )
                for deployment in found
                if deployment.flow_id in self._flow_names
            ),
            key=lambda deployment: deployment.name,
        )

    def _deployments_from(self, offset: int, wanted: DeploymentFilter) -> list[DeploymentResponse]:
        return self._api.call(
            lambda client: client.read_deployments(
                deployment_filter=wanted,
                sort=DeploymentSort.NAME_ASC,
                limit=PAGE_MAX_RUNS,
                offset=offset,
            )
        )

    def _learn_flow_names(self, flow_ids: set[uuid.UUID]) -> None:
        """Read names of flows, which deployments do not say, and which never change."""
        unknown = [*(flow_ids - self._flow_names.keys())]
        for start in range(0, len(unknown), PAGE_MAX_RUNS):
            wanted = FlowFilter(id=FlowFilterId(any_=unknown[start : start + PAGE_MAX_RUNS]))
            read = partial(SyncPrefectClient.read_flows, flow_filter=wanted, limit=PAGE_MAX_RUNS)
            self._flow_names |= {flow.id: flow.name for flow in self._api.call(read)}

    @override
    def find(self, job_id: str) -> Job:
        return job_of_run(self._find_run(job_id))

    def _find_run(self, job_id: str) -> FlowRun:
        name = run_name(job_id)
        # by name is an index look-up and nearly always finds it; a flow may have renamed its
        # run; and what a schedule or an operator started goes by its run's own id
        filters = [
            FlowRunFilter(name=FlowRunFilterName(any_=[name])),
            FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[name])),
        ]
        if (run_id := _uuid_of(job_id)) is not None:
            filters.append(FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
        for run_filter in filters:
            runs = self._read(run_filter, limit=1)
            if runs and JOB_TAG in runs[0].tags and job_of_run(runs[0]).job_id == job_id:
                return runs[0]
        raise _no_job(job_id)

    @override
    def look(self, job_id: str) -> Job:
        if (recent := self._recent.get(job_id)) is not None:
            return recent
        began = time.monotonic()
        job = self.find(job_id)
        if job.has_ended:
            return job
        if job.status is JobStatus.running and not job.reports_progress:
            tasks = self.count_tasks(job)
            job = job.with_tasks(ended=tasks.ended, known=tasks.known)
        self._recent.remember(job, began)
        return job

    @override
    def page(self, job_filter: JobFilter = ALL_JOBS, *, limit: int, offset: int = 0) -> JobPage:
        now = dt.datetime.now(dt.UTC)
        run_filter = run_filter_of(job_filter, now)
        if job_filter.has_duration:
            return self._page_by_duration(run_filter, job_filter, now, limit, offset)
        count = self._api.call(lambda client: client.count_flow_runs(flow_run_filter=run_filter))
        end = min(offset + limit, count)
        jobs: list[Job] = []
        for start in range(offset, end, PAGE_MAX_RUNS):
            runs = self._read(run_filter, limit=min(PAGE_MAX_RUNS, end - start), offset=start)
            jobs += [job_of_run(run) for run in runs]
        return JobPage(jobs=jobs, number_matched=count, next_offset=end if end < count else None)

    def _page_by_duration(
        self,
        run_filter: FlowRunFilter,
        job_filter: JobFilter,
        now: dt.datetime,
        limit: int,
        offset: int,
    ) -> JobPage:
        """Return those of the runs that have the right duration, which Prefect cannot tell.

        A request looks at `SIFTED_MAX_RUNS` runs at most, however many there are: what takes
        longer is continued by the next page.
        """
        jobs: list[Job] = []
        position = offset
        while position < offset + SIFTED_MAX_RUNS:
            runs = self._read(run_filter, offset=position)
            for run in runs:
                if len(jobs) == limit:
                    return JobPage(jobs=jobs, number_matched=None, next_offset=position)
                position += 1
                job = job_of_run(run)
                if job_filter.fits_duration(job, now):
                    jobs.append(job)
            if len(runs) < PAGE_MAX_RUNS:
                return JobPage(
                    jobs=jobs, number_matched=None if offset else len(jobs), next_offset=None
                )
        return JobPage(jobs=jobs, number_matched=None, next_offset=position)

    @override
    def wait(self, job: Job, timeout_seconds: float) -> Job:
        deadline = time.monotonic() + timeout_seconds
        pause_seconds = FIRST_POLL_SECONDS
        has_end_been_announced = False
        with self._states.end_of(job.flow_run_id) as end:
            while not job.has_ended and (remaining := deadline - time.monotonic()) > 0:
                if self._states.are_announced and not has_end_been_announced:
                    pause_seconds = LONGEST_POLL_SECONDS
                if end.wait(min(pause_seconds, remaining)):
                    # what is announced may not be there to be read for some milliseconds
                    has_end_been_announced = True
                    end.clear()
                    pause_seconds = AFTER_END_SECONDS
                with contextlib.suppress(BackendUnavailable):  # logged where it happened
                    job = self.find(job.job_id)
                pause_seconds = min(pause_seconds * 1.3, LONGEST_POLL_SECONDS)
        return job

    @override
    def count_tasks(self, job: Job) -> TaskCount:
        # the one call that counts by state; task runs are as old as the job, clocks aside
        start = job.created - COUNTED_TIME
        end = dt.datetime.now(dt.UTC) + COUNTED_TIME
        body = {
            "history_start": start.isoformat(),
            "history_end": end.isoformat(),
            "history_interval_seconds": (end - start).total_seconds(),
            "flow_runs": {"id": {"any_": [str(job.flow_run_id)]}},
        }
        response = self._api.call(
            lambda client: client.request("POST", "/task_runs/history", json=body)
        )
        counts = Counter[str]()
        for interval in response.json():
            for state in interval["states"]:
                counts[state["state_type"]] += state["count_runs"]
        ended = sum(counts[state.value] for state in TERMINAL_STATES)
        return TaskCount(ended=ended, known=counts.total())

    @override
    def log(self, job: Job, position: LogPosition, limit: int) -> list[LogLine]:
        runs = self._run_tree(job.flow_run_id)
        log_filter = LogFilter(
            flow_run_id=LogFilterFlowRunId(any_=runs),
            # which it includes
            timestamp=LogFilterTimestamp.model_validate({"after_": position.time}),
        )
        logs = self._api.call(
            lambda client: client.read_logs(
                log_filter, limit=limit, offset=position.lines, sort=LogSort.TIMESTAMP_ASC
            )
        )
        tasks = self._task_names({log.task_run_id for log in logs if log.task_run_id is not None})
        return [
            LogLine(
                line_id=str(log.id),
                time=log.timestamp,
                level=log.level,
                logger=log.name,
                message=log.message,
                task=tasks.get(log.task_run_id) if log.task_run_id else None,
            )
            for log in logs
        ]

    def _task_names(self, task_run_ids: set[uuid.UUID]) -> dict[uuid.UUID, str]:
        if not task_run_ids:
            return {}
        run_filter = TaskRunFilter(id=TaskRunFilterId(any_=[*task_run_ids]))
        runs = self._api.call(
            lambda client: client.read_task_runs(
                task_run_filter=run_filter, sort=TaskRunSort.ID_DESC, limit=PAGE_MAX_RUNS
            )
        )
        return {run.id: run.name for run in runs}

    @override
    def ended(self, *, before: dt.datetime | None, offset: int, limit: int) -> list[Job]:
        run_filter = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[JOB_TAG]),
            parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*TERMINAL_STATES])),
        )
        if before is not None:
            run_filter.end_time = FlowRunFilterEndTime.model_validate({"before_": before})
        return [job_of_run(run) for run in self._read(run_filter, limit=limit, offset=offset)]

    @override
    def label(self, job: Job, labels: Mapping[str, str]) -> None:
        self._api.call(
            lambda client: client.update_flow_run_labels(job.flow_run_id, dict(labels)),
            missing=_no_job(job.job_id),
        )

    @override
    def awaiting_callbacks(self) -> list[Job]:
        def in_states(**criteria: Collection[StateType]) -> FlowRunFilter:
            return FlowRunFilter(
                tags=FlowRunFilterTags(all_=[JOB_TAG, CALLBACK_TAG]),
                parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
                # there mostly is none, and to find that out all runs would have to be looked at
                expected_start_time=FlowRunFilterExpectedStartTime.model_validate(
                    {"after_": dt.datetime.now(dt.UTC) - CALLBACK_TIME}
                ),
                state=FlowRunFilterState(type=FlowRunFilterStateType.model_validate(criteria)),
            )

        runs = self._read_all(in_states(any_=_TOLD_STATES))
        runs += self._read(in_states(not_any_=_TOLD_STATES), limit=1)
        return [job_of_run(run) for run in runs]

    @override
    def settle_callbacks(self, job: Job) -> None:
        def settle(client: SyncPrefectClient) -> None:
            tags = client.read_flow_run(job.flow_run_id).tags
            left = [tag for tag in tags if tag != CALLBACK_TAG]
            client.update_flow_run(job.flow_run_id, tags=left)

        self._api.call(settle, missing=_no_job(job.job_id))

    @override
    def web_jobs(self) -> list[Job]:
        run_filter = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[JOB_TAG]),
            parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
            deployment_id=FlowRunFilterDeploymentId(is_null_=True),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*WEB_RUN_STATES])),
        )
        runs = self._read_all(run_filter)
        return [job for job in map(job_of_run, runs) if job.web_process is not None]

    @override
    def dismissed(self, flow_run_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        dismissed = set(flow_run_ids)
        for some in batched([*dismissed], PAGE_MAX_RUNS):
            run_filter = FlowRunFilter(
                id=FlowRunFilterId(any_=[*some]),
                state=FlowRunFilterState(
                    type=FlowRunFilterStateType(
                        not_any_=[StateType.CANCELLING, StateType.CANCELLED]
                    )
                ),
            )
            dismissed -= {run.id for run in self._read(run_filter)}
        return dismissed

    @override
    def cancel(self, job: Job) -> Job:
        # whoever runs it sets it Cancelled when its work has stopped. Until then the server takes
        # no other end; one that is Cancelled already could still become Completed
        self._set_state(job, Cancelling())
        return self.find(job.job_id)

    @override
    def crash(self, job: Job, message: str) -> None:
        if self._set_state(job, Crashed(message=message)) is StateType.CANCELLING:
            self._set_state(job, Cancelled())

    @override
    def delete(self, job: Job) -> None:
        self._recent.forget(job)
        runs = self._run_tree(job.flow_run_id)
        missing = _no_job(job.job_id)
        self._delete_artifacts(runs, missing)
        # the lowest first: a sub-flow whose parent is gone would be taken for a job
        for run_id in reversed(runs[1:]):
            with contextlib.suppress(JobNotFound):
                self._api.call(partial(_delete_run, run_id), missing=missing)
        self._api.call(partial(_delete_run, job.flow_run_id), missing=missing)

    def _run_tree(self, flow_run_id: uuid.UUID) -> list[uuid.UUID]:
        """Return a flow run and all of its sub-flows, those above before those below."""
        runs = [flow_run_id]
        level = [flow_run_id]
        while level:
            run_filter = FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[*level])
            )
            level = [run.id for run in self._read_all(run_filter)]
            runs += level
        return runs

    def _read_all(self, run_filter: FlowRunFilter) -> list[FlowRun]:
        """Read all runs; while pages are read, some can come and go."""
        runs: dict[uuid.UUID, FlowRun] = {}
        offset = 0
        while page := self._read(run_filter, offset=offset):
            runs |= {run.id: run for run in page}
            offset += PAGE_MAX_RUNS
            if len(page) < PAGE_MAX_RUNS:
                break
        return [*runs.values()]

    def _delete_artifacts(self, flow_run_ids: list[uuid.UUID], missing: JobNotFound) -> None:
        """Delete what Prefect would leave behind."""
        # client.read_artifacts() sends nulls that the server refuses
        body = {
            "artifacts": {"flow_run_id": {"any_": [str(run_id) for run_id in flow_run_ids]}},
            "limit": PAGE_MAX_RUNS,
        }

        def read_page(client: SyncPrefectClient) -> list[uuid.UUID]:
            page = client.request("POST", "/artifacts/filter", json=body).json()
            return [uuid.UUID(artifact["id"]) for artifact in page]

        is_last = False
        while not is_last:
            page = self._api.call(read_page)
            is_last = len(page) < PAGE_MAX_RUNS
            for artifact_id in page:
                with contextlib.suppress(JobNotFound):  # somebody else removes it too
                    self._api.call(partial(_delete_artifact, artifact_id), missing=missing)

    def _read(
        self, run_filter: FlowRunFilter, *, limit: int = PAGE_MAX_RUNS, offset: int = 0
    ) -> list[FlowRun]:
        """Read runs, newest first by the time of their first state.

        Ids do not tell: the server gives a random one to each run with an idempotency key.
        """
        newest_first = FlowRunSort.EXPECTED_START_TIME_DESC
        return self._api.call(
            lambda client: client.read_flow_runs(
                flow_run_filter=run_filter, sort=newest_first, limit=limit, offset=offset
            )
        )

    def _set_state(self, job: Job, state: State[Any]) -> StateType | None:
        """Propose a state, and return the type of that which the run has then."""
        self._recent.forget(job)
        outcome: OrchestrationResult[Any] = self._api.call(
            lambda client: client.set_flow_run_state(job.flow_run_id, state),
            missing=_no_job(job.job_id),
        )
        return None if outcome.state is None else outcome.state.type

    def _deployment(
        self, client: SyncPrefectClient, name: str, wanted: Collection[str]
    ) -> "_Deployment":
        known = self._deployments.get(name)
        # those of others may declare more by now
        if known is None or not known.parameter_names.issuperset(wanted):
            deployment = client.read_deployment_by_name(name)
            schema = deployment.parameter_openapi_schema or {}
            self._deployments[name] = _Deployment(
                deployment.id, frozenset(schema.get("properties") or ())
            )
        return self._deployments[name]

    def _flow_id(self, client: SyncPrefectClient, name: str) -> uuid.UUID:
        if name not in self._flow_ids:
            self._flow_ids[name] = client.create_flow_from_name(name)
        return self._flow_ids[name]


def _no_job(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no job {job_id}")


def _delete_artifact(artifact_id: uuid.UUID, client: SyncPrefectClient) -> None:
    client.delete_artifact(artifact_id)


def _delete_run(run_id: uuid.UUID, client: SyncPrefectClient) -> None:
    client.delete_flow_run(run_id)


def _uuid_of(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
