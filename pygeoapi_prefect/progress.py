"""What a running job tells of itself: how far it is, and what it is doing.

Authors call `report_progress`. It notes the newest value and returns; a thread of the same
process sends it to the Prefect server, where it becomes labels of the job's flow run (read
together with the run, in lists too) and a progress artifact (a bar in the Prefect UI).
"""

import dataclasses
import logging
import math
import os
import threading
import time
import uuid
from typing import Final

import httpx
import prefect.runtime.flow_run
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from pygeoapi_prefect.background import start_thread
from pygeoapi_prefect.jobs import progress_labels

logger = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.25
"""Between two rounds of sending; what is reported meanwhile goes with the next."""
ARTIFACT_PAUSE_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 1.0
HURRIED_RETRY_SECONDS: Final = 0.1
ATTEMPTS_AT_MOST: Final = 10
IDLE_SECONDS: Final = 10.0
FLUSH_SECONDS: Final = 1.0


def report_progress(percent: float, message: str | None = None) -> None:
    """Let clients see how far the current job is, in ``/jobs/{id}`` within a second.

    Call it from a flow, a sub-flow, a task or an ordinary processor, as often as you like:
    the newest value is sent at most four times a second, in the background. It never raises
    and never waits for the Prefect server; outside a flow run it does nothing.

    Args:
        percent: How much of the job is done, from 0 to 100; values beyond are taken as the
            nearer end.
        message: What the job is doing, for the client. Default: the last one stays.
    """
    try:
        if math.isnan(percent):
            raise ValueError("percent is not a number")
        run_id = prefect.runtime.flow_run.get_id()
        if run_id is not None:
            report = _Report(min(max(float(percent), 0.0), 100.0), message)
            _sender().report(uuid.UUID(run_id), report)
    except Exception:  # a job never fails for what it says of itself
        logger.warning("progress could not be reported", exc_info=True)


def flush_progress() -> None:
    """Wait a moment until what was reported is sent; at the end of a job."""
    sender = _senders.get(_sender_key())
    if sender is not None:
        sender.flush(FLUSH_SECONDS)


@dataclasses.dataclass(frozen=True)
class _Report:
    percent: float
    message: str | None

    def over(self, earlier: "_Report | None") -> "_Report":
        """Return the report that a later one makes of an earlier one."""
        if self.message is not None or earlier is None:
            return self
        return dataclasses.replace(self, message=earlier.message)


@dataclasses.dataclass(frozen=True)
class _Artifact:
    artifact_id: uuid.UUID
    report: _Report
    sent_at: float


class _Sender:
    """Sends the reports of one process to one Prefect server, while there are any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[uuid.UUID, _Report] = {}  # by run, newest last
        self._unshown: dict[uuid.UUID, _Report] = {}  # by job: sent, and not in its artifact yet
        self._is_sending = False
        self._is_hurried = False
        self._failures = 0
        self._thread: threading.Thread | None = None
        self._jobs: dict[uuid.UUID, uuid.UUID] = {}
        self._artifacts: dict[uuid.UUID, _Artifact] = {}

    def report(self, run_id: uuid.UUID, report: _Report) -> None:
        with self._changed:
            self._waiting[run_id] = report.over(self._waiting.pop(run_id, None))
            if self._thread is None:
                self._thread = start_thread(self._run, name="progress", daemon=True)
            self._changed.notify_all()

    def flush(self, timeout_seconds: float) -> None:
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: not (self._waiting or self._unshown or self._is_sending), timeout_seconds
            )
            self._is_hurried = False

    def _run(self) -> None:
        try:
            with get_client(sync_client=True) as client:
                while self._take_turn(client):
                    pass
        finally:
            with self._changed:
                # while this one closed its client, the next one may have begun
                if self._thread is threading.current_thread():
                    self._forget()

    def _forget(self) -> None:
        """Leave nothing of this thread to the one that the next report starts."""
        self._thread = None
        self._jobs.clear()
        self._artifacts.clear()
        self._unshown.clear()
        self._changed.notify_all()

    def _take_turn(self, client: SyncPrefectClient) -> bool:
        """Send what waits, and pause; tell whether there can be more."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or (self._unshown and self._is_hurried),
                ARTIFACT_PAUSE_SECONDS if self._unshown else IDLE_SECONDS,
            )
            if not (self._waiting or self._unshown):
                self._forget()
                return False
            reports, self._waiting = self._waiting, {}
            is_last = self._is_hurried
            self._is_sending = True
        unsent = self._send_all(client, reports)
        has_failed = not self._show_all(client, is_last=is_last) or bool(unsent)
        with self._changed:
            self._is_sending = False
            if has_failed and self._failures >= ATTEMPTS_AT_MOST:
                unsent.clear()
                self._unshown.clear()
            for run_id, newer in self._waiting.items():
                unsent[run_id] = newer.over(unsent.pop(run_id, None))
            self._waiting = unsent
            self._failures = self._failures + 1 if has_failed else 0
            self._changed.notify_all()
            pause_seconds = RETRY_SECONDS if has_failed else PAUSE_SECONDS
            self._changed.wait_for(lambda: self._is_hurried, pause_seconds)
        if has_failed:
            # also at the end of a job, all attempts at once would be one
            time.sleep(HURRIED_RETRY_SECONDS)
        return True

    def _send_all(
        self, client: SyncPrefectClient, reports: dict[uuid.UUID, _Report]
    ) -> dict[uuid.UUID, _Report]:
        """Send reports, the newest of each job; return those that could not be sent."""
        by_job: dict[uuid.UUID, tuple[uuid.UUID, _Report]] = {}
        unsent = {}
        for run_id, report in reports.items():
            try:
                if run_id not in self._jobs:
                    self._jobs[run_id] = _job_run_of(client, run_id)
            except (httpx.HTTPError, ObjectNotFound) as error:
                # Prefect records the task run that stands for a sub-flow a little later
                logger.debug("no job is known yet for flow run %s: %r", run_id, error)
                unsent[run_id] = report
            else:
                _, earlier = by_job.get(self._jobs[run_id], (None, None))
                by_job[self._jobs[run_id]] = run_id, report.over(earlier)
        for job_run_id, (run_id, report) in by_job.items():
            try:
                labels = progress_labels(report.percent, report.message)
                client.update_flow_run_labels(job_run_id, labels)
            except (httpx.HTTPError, ObjectNotFound) as error:
                logger.warning("progress could not be sent: %s", type(error).__name__)
                unsent[run_id] = report
            else:
                self._unshown[job_run_id] = report.over(self._unshown.get(job_run_id))
        return unsent

    def _show_all(self, client: SyncPrefectClient, *, is_last: bool) -> bool:
        """Put what was sent into artifacts, of which each is changed now and then."""
        latest = math.inf if is_last else time.monotonic() - ARTIFACT_PAUSE_SECONDS
        is_well = True
        for job_run_id, report in list(self._unshown.items()):
            shown = self._artifacts.get(job_run_id)
            if shown is not None and shown.sent_at > latest:
                continue
            try:
                self._artifacts[job_run_id] = _show(client, job_run_id, report, shown)
            except (httpx.HTTPError, ObjectNotFound) as error:
                logger.warning("progress could not be shown: %s", type(error).__name__)
                is_well = False
            else:
                del self._unshown[job_run_id]
        return is_well


def _show(
    client: SyncPrefectClient, job_run_id: uuid.UUID, report: _Report, shown: _Artifact | None
) -> _Artifact:
    """Show a report as the bar of a run, instead of the one that is shown."""
    sent_at = time.monotonic()
    if shown is None:
        # without a key: it belongs to this run alone, and is on no page but the run's
        created = client.create_artifact(
            ArtifactCreate(
                type="progress",
                data=report.percent,
                description=report.message,
                flow_run_id=job_run_id,
            )
        )
        return _Artifact(created.id, report, sent_at)
    report = report.over(shown.report)
    client.update_artifact(
        shown.artifact_id, ArtifactUpdate(data=report.percent, description=report.message)
    )
    return _Artifact(shown.artifact_id, report, sent_at)


_senders: dict[tuple[int, str | None], _Sender] = {}
_lock = threading.Lock()


def _sender_key() -> tuple[int, str | None]:
    # threads do not survive a fork
    return os.getpid(), get_current_settings().api.url


def _sender() -> _Sender:
    with _lock:
        return _senders.setdefault(_sender_key(), _Sender())


def _job_run_of(client: SyncPrefectClient, run_id: uuid.UUID) -> uuid.UUID:
    """Return the flow run that is the job: the run itself, or the one above all sub-flows."""
    while True:
        run = client.read_flow_run(run_id)
        if run.parent_task_run_id is None:
            return run_id
        task_run = client.read_task_run(run.parent_task_run_id)
        if task_run.flow_run_id is None:
            return run_id
        run_id = task_run.flow_run_id
