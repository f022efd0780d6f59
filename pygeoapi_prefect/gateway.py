"""The only module on the web side that speaks to the Prefect API.

Foreign exceptions of the API client end here, as errors of ours. A server that does not
answer is `BackendUnavailable`, never an empty list or an unknown job.
"""

import contextlib
import dataclasses
import datetime as dt
import logging
import os
import random
import re
import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, override

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
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
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort, LogSort, TaskRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import Flow
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings
from prefect.states import Cancelled, Cancelling, Crashed

from pygeoapi_prefect.dialect import cut
from pygeoapi_prefect.errors import (
    BackendUnavailable,
    DeploymentNotFound,
    ExecutionError,
    InvalidRequest,
    JobNotFound,
)
from pygeoapi_prefect.job_states import JobStates
from pygeoapi_prefect.jobs import (
    ALL_JOBS,
    CALLBACK_TAG,
    JOB_TAG,
    RESTART_STATE_NAMES,
    WEB_RUN_STATES,
    Job,
    JobFilter,
    JobPage,
    job_of_run,
    process_tag,
    run_name,
    run_tags,
    states_of,
)
from pygeoapi_prefect.logs import LogLine, LogPosition
from pygeoapi_prefect.prefect_settings import SettingsOverride
from pygeoapi_prefect.schemas import JobStatus

logger = logging.getLogger(__name__)

PAGE_MAX_RUNS: Final = 200
"""What one call of the Prefect API returns at most, with its default settings."""
SIFTED_MAX_RUNS: Final = 5 * PAGE_MAX_RUNS
"""How many runs one page of jobs, chosen by duration, looks at."""

CONNECT_TIMEOUT_SECONDS: Final = 5.0
RETRY_PAUSES_SECONDS: Final = (0.1, 0.5, 2.0)
"""Between calls that are made again. Prefect's own retries would take over a minute, for
each of the requests that then wait for a server that is down."""
BUSY_PAUSES_SECONDS: Final = (0.05, 0.1, 0.2, *[0.3] * 65)
"""Between calls of a Prefect API that answers, but is busy: 20 s in all. Where many write to
SQLite at once, four of five calls may find it locked, and no job should be turned away. Who
waited longer and longer would never have luck."""
BUSY_SECONDS: Final = 5.0
"""How long it is taken to be busy."""
TURN_SECONDS: Final = 15.0
"""How long a creation waits for others at most, which may get no answer at all."""

FIRST_POLL_SECONDS: Final = 0.05
LONGEST_POLL_SECONDS: Final = 1.0
"""Between looks at a job, also where its end will be announced."""
AFTER_END_SECONDS: Final = 0.005
LOOK_SECONDS: Final = 0.5
"""How long what is known of a job is known, if nothing else is announced."""

SCHEDULED_AHEAD: Final = dt.timedelta(minutes=1)
"""Before it is due, a run of a schedule is a job of lists: the Prefect server's clock may be
ahead of ours, and no job that a client has just made may be missing."""

COUNTED_TIME: Final = dt.timedelta(days=1)
"""Before a job, and after now: task runs have times of the clocks of other machines."""


CALLBACK_TIME: Final = dt.timedelta(days=30)
"""After a job is made, its subscriber is told nothing any more."""


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


_RETRYING_NOTHING: Final = SettingsOverride({PREFECT_CLIENT_MAX_RETRIES: 0})
_BUSY: Final = frozenset(
    {
        httpx.codes.REQUEST_TIMEOUT,
        httpx.codes.TOO_MANY_REQUESTS,
        httpx.codes.BAD_GATEWAY,
        httpx.codes.SERVICE_UNAVAILABLE,
    }
)
_PARAMETERS_REFUSED: Final = re.compile(
    r"Error creating flow run: Validation failed(?: for field (.+?))?\. Failure reason: (.+)",
    re.DOTALL,
)
_REASON_CHARACTERS: Final = 300
_CONNECTION_ENDED: Final = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class PrefectGateway(Protocol):
    """Jobs, as the web side asks the Prefect server for them.

    All methods but `close` raise `BackendUnavailable` when the Prefect API does not answer.
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
    ) -> Job:
        """Create a run of a deployment (``flow name/deployment name``).

        The run gets those of the parameters that the deployment's flow declares.

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
        """Return jobs whose subscribers are not told to the end.

        Of many, the newest; and none of more than `CALLBACK_TIME` ago.
        """

    def settle_callbacks(self, job: Job) -> None:
        """Note that the subscriber of a job is told to the end. Raises `JobNotFound`."""

    def web_jobs(self) -> list[Job]:
        """Return the jobs that run, or should run, in web processes."""

    def dismissed(self, flow_run_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Return those of the flow runs whose jobs are dismissed or removed."""

    def cancel(self, job: Job) -> None:
        """Dismiss a job that has not ended: its work is made to stop."""

    def crash(self, job: Job, message: str) -> None:
        """Mark a job failed whose process is gone."""

    def delete(self, job: Job) -> None:
        """Remove the run of a job, with its sub-flows and artifacts. Raises `JobNotFound`."""


@dataclasses.dataclass(frozen=True)
class _Look:
    job: Job
    began: float

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.began < LOOK_SECONDS


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

    def __init__(self, before_first_call: Callable[[PrefectGateway], None] | None = None) -> None:
        self._before_first_call = before_first_call
        self._prepared_process: int | None = None
        self._lock = threading.Lock()
        self._connected: tuple[int, SyncPrefectClient] | None = None
        self._busy_until = 0.0
        self._turn = threading.Lock()
        self._deployments: dict[str, _Deployment] = {}
        self._flow_ids: dict[str, uuid.UUID] = {}
        self._flow_names: dict[uuid.UUID, str] = {}
        self._states = JobStates()
        self._looks: OrderedDict[str, _Look] = OrderedDict()

    @override
    def close(self) -> None:
        self._states.close()
        with self._lock:
            if self._connected is not None and self._connected[0] == os.getpid():
                self._connected[1].__exit__(None, None, None)
            self._connected = None

    @override
    def submit(
        self,
        *,
        job_id: str,
        process_id: str,
        deployment: str,
        parameters: Mapping[str, Any],
        labels: Mapping[str, str],
    ) -> Job:
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
            )

        began = time.monotonic()
        try:
            job = job_of_run(self._create(create))
        except (ObjectNotFound, InvalidRequest):
            # it may have been changed, or deleted and made anew, since we learned of it
            self._deployments.pop(deployment, None)
        else:
            self._remember_look(job, began)
            return job
        try:
            return job_of_run(self._create(create))
        except ObjectNotFound as error:
            raise DeploymentNotFound(
                f"process {process_id} cannot run: Prefect has no deployment {deployment!r}; "
                "the operator creates it with `pygeoapi-prefect deploy`"
            ) from error

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
            return self._create(create)
        except ObjectNotFound:
            self._flow_ids.pop(flow.name, None)  # somebody deleted the flow
            return self._create(create)

    def _create(self, create: Callable[[SyncPrefectClient], FlowRun]) -> FlowRun:
        """Create a run; one at a time where the API is busy.

        On SQLite, of those who create runs at once, one succeeds.
        """
        is_busy = time.monotonic() < self._busy_until
        has_turn = is_busy and self._turn.acquire(timeout=TURN_SECONDS)
        try:
            return self._call(create)
        finally:
            if has_turn:
                self._turn.release()

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
        return self._call(
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
            self._flow_names |= {flow.id: flow.name for flow in self._call(read)}

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
        raise JobNotFound(f"there is no job {job_id}")

    @override
    def look(self, job_id: str) -> Job:
        with self._lock:
            look = self._looks.get(job_id)
        if (
            look is not None
            and look.is_fresh
            and self._states.goes_on(look.job.flow_run_id, look.began)
        ):
            return look.job
        began = time.monotonic()
        job = self.find(job_id)
        if job.has_ended:
            return job
        if job.status is JobStatus.running and not job.reports_progress:
            tasks = self.count_tasks(job)
            job = job.with_tasks(ended=tasks.ended, known=tasks.known)
        self._remember_look(job, began)
        return job

    def _remember_look(self, job: Job, began: float) -> None:
        with self._lock:
            self._looks[job.job_id] = _Look(job, began)
            self._looks.move_to_end(job.job_id)
            while self._looks and not next(iter(self._looks.values())).is_fresh:
                self._looks.popitem(last=False)

    def _forget_look(self, job: Job) -> None:
        with self._lock:
            self._looks.pop(job.job_id, None)

    @override
    def page(self, job_filter: JobFilter = ALL_JOBS, *, limit: int, offset: int = 0) -> JobPage:
        now = dt.datetime.now(dt.UTC)
        run_filter = _run_filter(job_filter, now)
        if job_filter.has_duration:
            return self._page_by_duration(run_filter, job_filter, now, limit, offset)
        count = self._call(lambda client: client.count_flow_runs(flow_run_filter=run_filter))
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
        response = self._call(
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
        logs = self._call(
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
        runs = self._call(
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
        try:
            self._call(lambda client: client.update_flow_run_labels(job.flow_run_id, dict(labels)))
        except ObjectNotFound as error:
            raise JobNotFound(f"there is no job {job.job_id}") from error

    @override
    def awaiting_callbacks(self) -> list[Job]:
        run_filter = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[JOB_TAG, CALLBACK_TAG]),
            parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
            # there mostly is none, and to find that out all runs would have to be looked at
            expected_start_time=FlowRunFilterExpectedStartTime.model_validate(
                {"after_": dt.datetime.now(dt.UTC) - CALLBACK_TIME}
            ),
        )
        return [job_of_run(run) for run in self._read(run_filter)]

    @override
    def settle_callbacks(self, job: Job) -> None:
        def settle(client: SyncPrefectClient) -> None:
            tags = client.read_flow_run(job.flow_run_id).tags
            left = [tag for tag in tags if tag != CALLBACK_TAG]
            client.update_flow_run(job.flow_run_id, tags=left)

        try:
            self._call(settle)
        except ObjectNotFound as error:
            raise JobNotFound(f"there is no job {job.job_id}") from error

    @override
    def web_jobs(self) -> list[Job]:
        run_filter = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[JOB_TAG]),
            parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
            deployment_id=FlowRunFilterDeploymentId(is_null_=True),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*WEB_RUN_STATES])),
        )
        runs = self._read(run_filter)
        return [job for job in map(job_of_run, runs) if job.web_process is not None]

    @override
    def dismissed(self, flow_run_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        wanted = set(flow_run_ids)
        run_filter = FlowRunFilter(
            id=FlowRunFilterId(any_=[*wanted]),
            state=FlowRunFilterState(
                type=FlowRunFilterStateType(not_any_=[StateType.CANCELLING, StateType.CANCELLED])
            ),
        )
        runs = self._read(run_filter)
        return wanted - {run.id for run in runs}

    @override
    def cancel(self, job: Job) -> None:
        # a worker stops the work of a deployed run and then sets it Cancelled; nobody
        # but the web process itself is responsible for a run without a deployment
        state: State[Any] = Cancelling() if job.deployment_id else Cancelled()
        self._set_state(job, state)

    @override
    def crash(self, job: Job, message: str) -> None:
        self._set_state(job, Crashed(message=message))

    @override
    def delete(self, job: Job) -> None:
        self._forget_look(job)
        runs = self._run_tree(job.flow_run_id)
        self._delete_artifacts(runs)
        # the lowest first: a sub-flow whose parent is gone would be taken for a job
        for run_id in reversed(runs[1:]):
            with contextlib.suppress(ObjectNotFound):
                self._call(partial(_delete_run, run_id))
        try:
            self._call(partial(_delete_run, job.flow_run_id))
        except ObjectNotFound as error:
            raise JobNotFound(f"there is no job {job.job_id}") from error

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
        runs: list[FlowRun] = []
        while len(page := self._read(run_filter, offset=len(runs))) == PAGE_MAX_RUNS:
            runs += page
        return runs + page

    def _delete_artifacts(self, flow_run_ids: list[uuid.UUID]) -> None:
        """Delete what Prefect would leave behind."""
        # client.read_artifacts() sends nulls that the server refuses
        body = {
            "artifacts": {"flow_run_id": {"any_": [str(run_id) for run_id in flow_run_ids]}},
            "limit": PAGE_MAX_RUNS,
        }

        def delete_page(client: SyncPrefectClient) -> int:
            page = client.request("POST", "/artifacts/filter", json=body).json()
            for artifact in page:
                with contextlib.suppress(ObjectNotFound):
                    client.delete_artifact(uuid.UUID(artifact["id"]))
            return len(page)

        while self._call(delete_page) == PAGE_MAX_RUNS:
            pass

    def _read(
        self, run_filter: FlowRunFilter, *, limit: int = PAGE_MAX_RUNS, offset: int = 0
    ) -> list[FlowRun]:
        """Read runs, newest first by the time of their first state.

        Ids do not tell: the server gives a random one to each run with an idempotency key.
        """
        newest_first = FlowRunSort.EXPECTED_START_TIME_DESC
        return self._call(
            lambda client: client.read_flow_runs(
                flow_run_filter=run_filter, sort=newest_first, limit=limit, offset=offset
            )
        )

    def _set_state(self, job: Job, state: State[Any]) -> None:
        self._forget_look(job)
        try:
            self._call(lambda client: client.set_flow_run_state(job.flow_run_id, state))
        except ObjectNotFound as error:
            raise JobNotFound(f"there is no job {job.job_id}") from error

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

    def _client(self) -> SyncPrefectClient:
        with self._lock:
            # servers fork after they have loaded the application: sockets are not shared
            if self._connected is None or self._connected[0] != os.getpid():
                if not get_current_settings().api.url:
                    # Prefect would quietly start a server of its own
                    raise BackendUnavailable(
                        "no Prefect server is configured: the operator sets PREFECT_API_URL"
                    )
                timeout = httpx.Timeout(
                    get_current_settings().api.request_timeout, connect=CONNECT_TIMEOUT_SECONDS
                )
                hooks = {"response": [_raise_where_busy]}
                client = get_client(
                    sync_client=True, httpx_settings={"timeout": timeout, "event_hooks": hooks}
                )
                client.__enter__()
                self._connected = (os.getpid(), client)
            client = self._connected[1]
            is_first_call = self._prepared_process != os.getpid()
            self._prepared_process = os.getpid()
        if is_first_call and self._before_first_call is not None:
            try:
                self._before_first_call(self)
            except BaseException:
                self._prepared_process = None
                raise
        return client

    def _call[Answer](self, call: Callable[[SyncPrefectClient], Answer]) -> Answer:
        # A call that is made again does no harm: runs are created under idempotency keys.
        pauses_seconds = iter(RETRY_PAUSES_SECONDS)
        busy_pauses_seconds = iter(BUSY_PAUSES_SECONDS)
        while True:
            try:
                with _RETRYING_NOTHING():
                    return call(self._client())
            except _CONNECTION_ENDED as error:
                logger.info("the Prefect API ended a connection: %r", error)
                if not _pause(pauses_seconds):
                    raise _translated(error) from error
            except _BusyAnswer as busy:
                logger.info("the Prefect API answered %s", busy.status)
                # a proxy with nothing behind it is not busy
                is_away = busy.status == httpx.codes.BAD_GATEWAY
                if not is_away:
                    self._busy_until = time.monotonic() + BUSY_SECONDS
                if not _pause(pauses_seconds if is_away else busy_pauses_seconds):
                    raise _no_answer(busy.status) from busy
            except PrefectHTTPStatusError as error:
                if not _has_new_csrf_token(error.response) or not _pause(pauses_seconds):
                    raise _translated(error) from error
            except httpx.HTTPError as error:
                raise _translated(error) from error


class _BusyAnswer(Exception):
    """The Prefect API answers that it is busy."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _raise_where_busy(response: httpx.Response) -> None:
    # Prefect's client would wait for two seconds and more
    if response.status_code in _BUSY:
        raise _BusyAnswer(response.status_code)


def _pause(pauses_seconds: Iterator[float]) -> bool:
    """Wait before another call; whether there is to be one."""
    seconds = next(pauses_seconds, None)
    if seconds is None:
        return False
    # those who were refused together must not come back together
    time.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311  nothing secret
    return True


def _no_answer(status: int) -> BackendUnavailable:
    logger.error("the Prefect API answered %s", status)
    return BackendUnavailable("the Prefect server failed to answer; try again later")


def _has_new_csrf_token(response: httpx.Response) -> bool:
    # the client has fetched another one by now
    return response.status_code == httpx.codes.FORBIDDEN and "Invalid CSRF token" in response.text


def _translated(error: httpx.HTTPError) -> Exception:
    """Return our error for one of the API client."""
    if not isinstance(error, PrefectHTTPStatusError):
        logger.error("the Prefect API cannot be reached: %r", error)
        return BackendUnavailable("the Prefect server cannot be reached; try again later")
    status = error.response.status_code
    if status == httpx.codes.NOT_FOUND:
        return ObjectNotFound(error)
    if error.response.is_server_error:
        return _no_answer(status)
    if status == httpx.codes.CONFLICT and (reason := _refused_parameters(error.response)):
        return InvalidRequest(f"inputs: {reason}")
    logger.error("the Prefect API refused a request: %s", error.response.text)
    return ExecutionError("the Prefect server refused a request of this server")


def _refused_parameters(response: httpx.Response) -> str | None:
    """Return what is wrong with the parameters of a run, if that is why it was refused."""
    try:
        match = _PARAMETERS_REFUSED.match(str(response.json()["detail"]))
    except (ValueError, LookupError, TypeError):
        return None
    return match and cut(": ".join(filter(None, match.groups())), _REASON_CHARACTERS)


def _delete_run(run_id: uuid.UUID, client: SyncPrefectClient) -> None:
    client.delete_flow_run(run_id)


def _run_filter(job_filter: JobFilter, now: dt.datetime) -> FlowRunFilter:
    """Return a filter of the Prefect API for all criteria; that for duration is too wide."""
    criteria: dict[str, Any] = {
        "tags": {"all_": [JOB_TAG]},
        # a flow's sub-flows inherit its tags, but are no jobs
        "parent_task_run_id": {"is_null_": True},
    }
    if job_filter.process_ids is not None:
        criteria["tags"]["any_"] = [process_tag(one) for one in sorted(job_filter.process_ids)]
    # schedules make runs days before they are due, and make them anew with every deployment
    latest = now + SCHEDULED_AHEAD
    criteria["expected_start_time"] = {
        "after_": job_filter.created_from,
        "before_": min(job_filter.created_until or latest, latest),
    }
    if job_filter.statuses is not None:
        criteria["state"] = _state_criteria(job_filter.statuses)
    if job_filter.has_duration:
        criteria["start_time"] = _start_time_criteria(job_filter, now)
    return FlowRunFilter.model_validate(criteria)


def _state_criteria(statuses: frozenset[JobStatus]) -> dict[str, Any]:
    """Return which states have some statuses, as `jobs.job_of_run` reads them."""
    types = {"any_": states_of(statuses)}
    is_running_wanted = JobStatus.running in statuses
    if is_running_wanted is (JobStatus.accepted in statuses):
        return {"type": types}
    # a run that started is scheduled again while it waits to go on
    if is_running_wanted:
        return {"operator": "or_", "type": types, "name": {"any_": RESTART_STATE_NAMES}}
    return {"type": types, "name": {"not_any_": RESTART_STATE_NAMES}}


def _start_time_criteria(job_filter: JobFilter, now: dt.datetime) -> dict[str, Any]:
    """Return between which times jobs of the right duration have started."""
    criteria: dict[str, Any] = {"is_null_": False}
    if job_filter.min_duration_seconds is not None:
        criteria["before_"] = now - dt.timedelta(seconds=job_filter.min_duration_seconds)
    is_about_running = job_filter.statuses == frozenset({JobStatus.running})
    if is_about_running and job_filter.max_duration_seconds is not None:
        criteria["after_"] = now - dt.timedelta(seconds=job_filter.max_duration_seconds)
    return criteria


def _uuid_of(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
