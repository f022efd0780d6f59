"""What a job is: its identity, its facts, and how a Prefect flow run tells them.

The one place that knows how a job id becomes a flow run and back, and which Prefect
state is which OGC status. Pure: nothing here speaks to the Prefect API.
"""

import dataclasses
import datetime as dt
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

from prefect.client.schemas.objects import FlowRun, StateType

from pygeoapi_prefect.redaction import redacted
from pygeoapi_prefect.schemas import JobStatus

RUN_NAME_PREFIX: Final = "pygeoapi_job_"
JOB_TAG: Final = "pygeoapi"
CALLBACK_TAG: Final = "pygeoapi_callbacks"
"""Of jobs whose subscriber is not told to the end."""
PROCESS_TAG_PREFIX: Final = "pygeoapi_process:"

PROCESS_LABEL: Final = "pygeoapi.process_id"
MEDIA_TYPE_LABEL: Final = "pygeoapi.result_media_type"
RESULT_STORAGE_LABEL: Final = "pygeoapi.result_storage"
REQUEST_LABEL: Final = "pygeoapi.execution_request"
WEB_PROCESS_LABEL: Final = "pygeoapi.web_process"
WEB_PULSE_LABEL: Final = "pygeoapi.web_pulse"
PROGRESS_LABEL: Final = "pygeoapi.progress"
MESSAGE_LABEL: Final = "pygeoapi.message"
SUBSCRIBER_LABEL: Final = "pygeoapi.subscriber"
OUTPUT_URLS_LABEL: Final = "pygeoapi.output_urls"
DELIVERY_LABEL_PREFIX: Final = "pygeoapi.callback."

JOB_TYPE: Final = "process"

STATUS_OF_STATE: Final = {
    StateType.SCHEDULED: JobStatus.accepted,
    StateType.PENDING: JobStatus.accepted,
    StateType.RUNNING: JobStatus.running,
    StateType.PAUSED: JobStatus.running,
    StateType.COMPLETED: JobStatus.successful,
    StateType.FAILED: JobStatus.failed,
    StateType.CRASHED: JobStatus.failed,
    StateType.CANCELLING: JobStatus.dismissed,
    StateType.CANCELLED: JobStatus.dismissed,
}

RESTART_STATE_NAMES: Final = ("AwaitingRetry", "Resuming")
"""Scheduled states of runs that have started before."""

WEB_RUN_STATES: Final = (
    StateType.PENDING,
    StateType.RUNNING,
    StateType.SCHEDULED,  # for the next try
    StateType.PAUSED,
    StateType.CANCELLING,
)
"""Of runs that a web process has begun, and is to end."""

ENDED: Final = frozenset({JobStatus.successful, JobStatus.failed, JobStatus.dismissed})

RUNNING_MAX_PERCENT: Final = 99
"""What a job shows at most before it is known to be successful."""

_MESSAGES: Final = {
    JobStatus.accepted: "Job accepted, waiting to run",
    JobStatus.running: "Job running",
    JobStatus.successful: "Job complete",
    JobStatus.failed: "Job failed",
    JobStatus.dismissed: "Job dismissed",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The facts of one job.

    Attributes:
        flow_run_id: Id of the Prefect flow run that is the job.
        deployment_id: Deployment that the run belongs to; None where it runs in the web
            process.
        execution_request: What the flow run carries of the execute request: JSON text, or
            a reference to where the result storage keeps it (see `flows.read_request`).
        result_media_type: Media type of the whole result, as announced at submission.
        result_storage: Where the job keeps its files, if its run says so.
        web_process: Which web process runs the job; None for deployed ones.
        web_pulse: Its last sign of life, which says nothing but that it differs from others.
        progress: Percentage of the work that is done.
        reports_progress: Whether the job has told its progress itself.
        stopping: Whether the job is dismissed, but its work may not have stopped yet.
        subscriber: Whom to tell how the job goes (``subscriber.yaml``), as JSON text.
        deliveries: How far each of its callbacks is, as `callbacks` keeps it.
        output_urls: Where clients find outputs, by output id; known for jobs that have a
            subscriber.
        awaits_callbacks: Whether the subscriber is not told to the end.
        runs_our_flow: Whether its flow is one of this package, which tells subscribers itself;
            that of an existing deployment knows nothing of us.
        error_name: Class of the exception that the job failed with, if it was one.
    """

    job_id: str
    process_id: str
    flow_run_id: uuid.UUID
    deployment_id: uuid.UUID | None
    status: JobStatus
    message: str
    progress: int
    reports_progress: bool
    created: dt.datetime
    started: dt.datetime | None
    finished: dt.datetime | None
    updated: dt.datetime
    execution_request: str | None
    result_media_type: str
    result_storage: str | None
    parameters: dict[str, Any]
    state_data: Any
    web_process: str | None
    web_pulse: str | None
    stopping: bool
    subscriber: str | None
    deliveries: dict[str, str]
    output_urls: dict[str, str]
    awaits_callbacks: bool
    runs_our_flow: bool
    error_name: str | None

    @property
    def has_ended(self) -> bool:
        """Whether the job has reached its last status and its work has stopped."""
        return self.status in ENDED and not self.stopping

    def delivery_label(self, callback: str) -> str:
        """Return the label of the flow run that says how far a callback is."""
        return f"{DELIVERY_LABEL_PREFIX}{callback}"

    def with_tasks(self, *, ended: int, known: int) -> "Job":
        """Return the job with the progress that its task runs tell, if it tells none itself."""
        if self.reports_progress or self.status is not JobStatus.running or not known:
            return self
        percent = min(100 * ended // known, RUNNING_MAX_PERCENT)
        return dataclasses.replace(self, progress=percent)

    def duration_seconds(self, now: dt.datetime) -> float | None:
        """Return how long the job ran, or has been running; None where it never started."""
        end = self.finished if self.status in ENDED else now
        if self.started is None or end is None:
            return None
        return (end - self.started).total_seconds()


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs a list has: those that meet every criterion. None stands for any.

    Attributes:
        created_from: Jobs created then or later.
        created_until: Jobs created then or earlier.
        min_duration_seconds: Jobs that ran, or have been running, at least as long; none
            that waits.
        max_duration_seconds: As above, at most as long.
    """

    process_ids: frozenset[str] | None = None
    statuses: frozenset[JobStatus] | None = None
    created_from: dt.datetime | None = None
    created_until: dt.datetime | None = None
    min_duration_seconds: float | None = None
    max_duration_seconds: float | None = None

    @property
    def has_duration(self) -> bool:
        """Whether the durations of jobs matter."""
        return not (self.min_duration_seconds is None and self.max_duration_seconds is None)

    def fits_duration(self, job: Job, now: dt.datetime) -> bool:
        """Tell whether a job meets the criteria of duration."""
        if not self.has_duration:
            return True
        seconds = job.duration_seconds(now)
        if seconds is None:
            return False
        return (self.min_duration_seconds is None or seconds >= self.min_duration_seconds) and (
            self.max_duration_seconds is None or seconds <= self.max_duration_seconds
        )


ALL_JOBS: Final = JobFilter()


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobPage:
    """A part of a list of jobs, newest first.

    Attributes:
        number_matched: How many jobs the whole list has; None where counting them would mean
            reading them all.
        next_offset: Where the next part starts; None after the last one. It need not be
            `len(jobs)` further on, and there can be a next part after one that is not full.
    """

    jobs: list[Job]
    number_matched: int | None
    next_offset: int | None


def new_job_id() -> str:
    """Return a fresh job id."""
    return str(uuid.uuid4())


def run_name(job_id: str) -> str:
    """Return the name, and idempotency key, of the flow run that is the job."""
    return f"{RUN_NAME_PREFIX}{job_id}"


def run_tags(process_id: str, labels: Mapping[str, str] | None = None) -> list[str]:
    """Return the tags that make a flow run, or all runs of a deployment, jobs of a process.

    Args:
        process_id: The process.
        labels: Those of the run, where the tags are for one.
    """
    tags = [JOB_TAG, process_tag(process_id)]
    return [*tags, CALLBACK_TAG] if labels and SUBSCRIBER_LABEL in labels else tags


def run_labels(
    *,
    process_id: str,
    result_media_type: str,
    result_storage: str,
    web_process: str | None = None,
    execution_request: str | None = None,
    subscriber: Mapping[str, str | None] | None = None,
    output_urls: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the labels that keep facts of a job with its flow run.

    The execute request is one only where no parameter of the run carries it.
    """
    labels = {
        PROCESS_LABEL: process_id,
        MEDIA_TYPE_LABEL: result_media_type,
        RESULT_STORAGE_LABEL: result_storage,
    }
    if web_process is not None:
        labels[WEB_PROCESS_LABEL] = web_process
    if execution_request is not None:
        labels[REQUEST_LABEL] = execution_request
    if subscriber:
        labels[SUBSCRIBER_LABEL] = json.dumps(dict(subscriber), ensure_ascii=False)
        if output_urls:
            labels[OUTPUT_URLS_LABEL] = json.dumps(dict(output_urls), ensure_ascii=False)
    return labels


def status_document(job: Job) -> dict[str, Any]:
    """Return the status of a job (``statusInfo.yaml``), without links."""
    times = {
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "updated": job.updated,
    }
    return {
        "id": job.job_id,
        "jobID": job.job_id,
        "processID": job.process_id,
        "type": JOB_TYPE,
        "status": job.status.value,
        "message": job.message,
        "progress": job.progress,
        **{name: rfc3339(time) for name, time in times.items() if time is not None},
    }


def progress_labels(percent: float, message: str | None = None) -> dict[str, float | str]:
    """Return the labels that keep the progress of a job with its flow run."""
    labels: dict[str, float | str] = {PROGRESS_LABEL: percent}
    if message is not None:
        labels[MESSAGE_LABEL] = _shortened(message, PROGRESS_MESSAGE_MAX_CHARACTERS)
    return labels


def statuses_of(status: Any) -> frozenset[JobStatus] | None:
    """Return one OGC status or several, each as pygeoapi has it, as ours; None for any."""
    if status is None:
        return None
    wanted = status if isinstance(status, list | tuple | set | frozenset) else [status]
    return frozenset(JobStatus(str(getattr(one, "value", one))) for one in wanted)


def states_of(status: Any) -> list[StateType] | None:
    """Return the Prefect states of one OGC status or several; None for any."""
    statuses = statuses_of(status)
    if statuses is None:
        return None
    return [state for state, status in STATUS_OF_STATE.items() if status in statuses]


def process_tag(process_id: str) -> str:
    """Return the tag that all jobs of a process have."""
    return f"{PROCESS_TAG_PREFIX}{process_id}"


def job_of_run(run: FlowRun) -> Job:
    """Read a job off its flow run."""
    state_type = run.state_type or StateType.PENDING
    status = STATUS_OF_STATE[state_type]
    if status is JobStatus.accepted and run.start_time is not None:
        status = JobStatus.running  # a flow that waits for its next retry
    # Prefect can look for runs by the time of their first state, but not of their creation:
    # for jobs of clients, that is the same moment, and the earlier of the two is what `created`
    # shows; a schedule makes its runs long before they are due
    known = (run.expected_start_time, None if run.auto_scheduled else run.created)
    created = min(filter(None, known), default=dt.datetime.now(dt.UTC))
    return Job(
        job_id=_job_id(run),
        process_id=_process_id(run),
        flow_run_id=run.id,
        deployment_id=run.deployment_id,
        status=status,
        message=_message(run, status),
        progress=_progress(run, status),
        reports_progress=PROGRESS_LABEL in run.labels,
        created=created,
        started=run.start_time,
        finished=run.end_time,
        updated=max(_updated(run, status) or created, created),
        execution_request=run.parameters.get("execution_request") or _label(run, REQUEST_LABEL),
        result_media_type=_label(run, MEDIA_TYPE_LABEL) or "application/json",
        result_storage=_label(run, RESULT_STORAGE_LABEL),
        parameters=run.parameters,
        state_data=run.state.data if run.state else None,
        web_process=_label(run, WEB_PROCESS_LABEL),
        web_pulse=_label(run, WEB_PULSE_LABEL),
        stopping=state_type is StateType.CANCELLING,
        subscriber=_label(run, SUBSCRIBER_LABEL),
        deliveries={
            name.removeprefix(DELIVERY_LABEL_PREFIX): str(value)
            for name, value in run.labels.items()
            if name.startswith(DELIVERY_LABEL_PREFIX)
        },
        output_urls=json.loads(_label(run, OUTPUT_URLS_LABEL) or "{}"),
        awaits_callbacks=CALLBACK_TAG in run.tags,
        runs_our_flow=REQUEST_LABEL not in run.labels,
        error_name=_error_name(run) if status is JobStatus.failed else None,
    )


def rfc3339(time: dt.datetime) -> str:
    """Return a time as responses have it: in UTC, with milliseconds."""
    return time.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _job_id(run: FlowRun) -> str:
    # a flow may rename its run, so the idempotency key is the surer of the two;
    # runs that a schedule or an operator made have neither
    for name in (run.idempotency_key or "", run.name):
        if name.startswith(RUN_NAME_PREFIX):
            return name.removeprefix(RUN_NAME_PREFIX)
    return str(run.id)


def _label(run: FlowRun, name: str) -> str | None:
    value = run.labels.get(name)
    return None if value is None else str(value)


def _process_id(run: FlowRun) -> str:
    for tag in run.tags:
        if tag.startswith(PROCESS_TAG_PREFIX):
            return tag.removeprefix(PROCESS_TAG_PREFIX)
    return ""


def _progress(run: FlowRun, status: JobStatus) -> int:
    if status is JobStatus.successful:
        return 100
    reported = run.labels.get(PROGRESS_LABEL)
    if status is JobStatus.accepted or not isinstance(reported, int | float):
        return 0
    return int(min(max(reported, 0), RUNNING_MAX_PERCENT))


def _updated(run: FlowRun, status: JobStatus) -> dt.datetime | None:
    # a report changes the run, but not its state
    if status is JobStatus.running and PROGRESS_LABEL in run.labels and run.updated is not None:
        return run.updated
    return run.state.timestamp if run.state else run.updated


def _message(run: FlowRun, status: JobStatus) -> str:
    state_message = (run.state.message if run.state else None) or ""
    if status is JobStatus.failed and state_message:
        return public_message(state_message)
    if status is JobStatus.dismissed and "concurrency limit" in state_message:
        return "Job dismissed, for too many others of the process were running"
    match run.state_name:
        case "Late":
            return "Job accepted; no worker has picked it up yet"
        case "AwaitingRetry":
            return "Job failed and will be tried again"
        case "AwaitingConcurrencySlot":
            return "Job accepted, waiting for other jobs to end"
        case "Paused" | "Suspended":
            return "Job paused"
    if status is JobStatus.running and (reported := _label(run, MESSAGE_LABEL)):
        return reported
    return _MESSAGES[status]


_ENGINE_PREFIX = re.compile(
    r"^(Flow run encountered an exception|Task run encountered an exception)[.:]?\s*"
)
_ERROR_NAME = re.compile(r"(?:\w+\.)*([A-Za-z_]\w{0,100}):")
MESSAGE_MAX_CHARACTERS: Final = 2_000
PROGRESS_MESSAGE_MAX_CHARACTERS: Final = 500


def _error_name(run: FlowRun) -> str | None:
    message = _ENGINE_PREFIX.sub("", (run.state.message if run.state else None) or "")
    named = _ERROR_NAME.match(message)
    return named[1] if named else None


def public_message(message: str) -> str:
    """Return an error message fit for a client: `redacted`, and of limited length."""
    text = redacted(_ENGINE_PREFIX.sub("", message))
    return _shortened(text, MESSAGE_MAX_CHARACTERS) or _MESSAGES[JobStatus.failed]


def _shortened(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"
