"""The process manager that pygeoapi loads: every job is a Prefect flow run.

Each method parses, asks gateway and storage, and shapes the answer for pygeoapi's API
layer. pygeoapi makes several instances, also where none will execute anything, so the
constructor does no I/O; and one instance serves all requests at once, so none keeps
anything of a request.
"""

import contextlib
import dataclasses
import datetime as dt
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Final

from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow
from pygeoapi.process.base import BaseProcessor
from pygeoapi.process.manager.base import BaseManager
from pygeoapi.util import JobStatus as PygeoapiJobStatus
from pygeoapi.util import Subscriber

from pygeoapi_prefect import execution, retention
from pygeoapi_prefect.callbacks import Courier, check_subscriber, results_document
from pygeoapi_prefect.config import (
    LogPublication,
    parse_manager,
)
from pygeoapi_prefect.configuration_file import Configuration
from pygeoapi_prefect.discovery import Discovery, LiveResources
from pygeoapi_prefect.errors import (
    BackendUnavailable,
    BackendUnreachable,
    ConfigurationError,
    DeploymentNotFound,
    ExecutionError,
    InvalidRequest,
    JobFailed,
    JobRefused,
    JobWasDismissed,
    LogNotPublished,
    RequestTooLarge,
    ResultMissing,
    ResultNotReady,
    ResultUnavailable,
    ServerBusy,
    StorageError,
    UnknownProcess,
)
from pygeoapi_prefect.execution import Plan
from pygeoapi_prefect.gateway import ApiGateway, PrefectGateway
from pygeoapi_prefect.input_contents import check_link_addresses
from pygeoapi_prefect.job_files import JobFiles
from pygeoapi_prefect.jobs import Job, JobFilter, rfc3339, run_labels, statuses_of
from pygeoapi_prefect.logs import LogPage, LogPosition, page_of
from pygeoapi_prefect.outputs import media_types
from pygeoapi_prefect.processes import Process, load_process
from pygeoapi_prefect.results import (
    VERBATIM_JSON_MEDIA_TYPE,
    Output,
    Response,
    links_document,
    shape,
)
from pygeoapi_prefect.retention import Removal, RetentionRule, removal_loop
from pygeoapi_prefect.schemas import (
    JobStatus,
    ProcessExecutionMode,
    ProcessResponseType,
    RequestedProcessExecutionMode,
    ReturnPreference,
)
from pygeoapi_prefect.storage import ResultStorage, open_storage
from pygeoapi_prefect.web_processes import OrphanWatch, WebProcess
from pygeoapi_prefect.web_runs import WebRuns
from pygeoapi_prefect.wishes import Wishes, by_reference

logger = logging.getLogger(__name__)

PREFERENCE_APPLIED: Final = "Preference-Applied"

STOP_TIME: Final = dt.timedelta(minutes=5)
"""How long the work of a dismissed job may take to stop; then nobody is there to stop it."""

CLIENTS_ERRORS: Final = frozenset({InvalidRequest.__name__, RequestTooLarge.__name__})
"""With what a job fails for which its client is responsible, where it arrives as a name."""

ExecutionAnswer = tuple[str, str, Any, PygeoapiJobStatus, dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Dismissal:
    """What became of a job that somebody wanted to dismiss.

    Attributes:
        job: The job as it is: dismissed, or ended in another way before it could be. Where it
            was removed, the job as it was.
    """

    job: Job
    is_removed: bool


class PrefectManager(BaseManager):
    """Runs pygeoapi's processes with Prefect.

    Args:
        manager_def: ``server.manager`` of the configuration, with all process resources
            under ``processes``, as pygeoapi hands it over.
        gateway: How jobs reach the Prefect server; `testing.InMemoryGateway` in tests.

    Attributes:
        processes: The process resources by id. Applications may add, remove and replace
            entries, or the whole mapping, at any time.
        output_url: Returns the address at which this server hands out an output, given job
            id and output id. Set by applications that have such a route.
    """

    def __init__(self, manager_def: dict[str, Any], gateway: PrefectGateway | None = None) -> None:
        self.configuration = parse_manager(manager_def)
        # over a connection of its own: whoever lists processes need not run a server, which
        # is what the first call of the other one is for
        self._discovery_gateway = gateway or ApiGateway()
        self._discovery = self.configuration.discover and Discovery(
            self.configuration.discover, self._discovery_gateway
        )
        super().__init__(manager_def)
        self.is_async = self.configuration.enable_async_job_execution
        self.supports_subscribing = True
        self.output_url: Callable[[str, str], str] | None = None
        self._files = JobFiles(self.configuration, self)
        self.gateway: PrefectGateway = gateway or ApiGateway(before_first_call=self._go_on)
        self._deliveries = Courier(
            self.gateway, self.configuration.references, self._results_document
        ).loop()
        self._removals = removal_loop(self._clean_up)
        self._web_runs = WebRuns(self.gateway, self.configuration.max_jobs_in_web_process)
        self._orphan_watch = OrphanWatch(self.gateway)
        self._orphan_looks = self._orphan_watch.loop()
        self._loaded: dict[str, tuple[Mapping[str, Any], Process]] = {}
        self._disable_broken_processes()

    # pygeoapi has an attribute, of the dictionaries that it makes itself
    @property  # type: ignore[override]
    def processes(self) -> MutableMapping[str, Mapping[str, Any]]:
        """The process resources by id."""
        return self._processes

    @processes.setter
    def processes(self, processes: MutableMapping[str, Mapping[str, Any]]) -> None:
        self._configured = processes
        self._processes = (
            LiveResources(processes, self._discovery) if self._discovery else processes
        )

    def get_processor(self, process_id: str) -> BaseProcessor:
        """Return a new processor for a process. Raises `UnknownProcess`."""
        return self.process(process_id).processor()

    def process(self, process_id: str) -> Process:
        """Return a configured process. Raises `UnknownProcess`."""
        try:
            resource = self.processes[process_id]
        except KeyError:
            raise UnknownProcess(f"there is no process {process_id}") from None
        loaded = self._loaded.get(process_id)
        if loaded is None or loaded[0] is not resource:
            try:
                loaded = resource, load_process(process_id, resource, self.configuration)
            except ConfigurationError as error:
                logger.error("%s", error)
                raise UnknownProcess(f"process {process_id} cannot be loaded") from error
            self._loaded[process_id] = loaded
        return loaded[1]

    # pygeoapi's annotation of the return type lacks the job id, which its API layer reads
    def execute_process(  # type: ignore[override]
        self,
        process_id: str,
        data_dict: Any,
        execution_mode: Any = None,
        requested_outputs: Any = None,
        subscriber: Subscriber | None = None,
        requested_response: Any = "raw",
    ) -> ExecutionAnswer:
        """Execute a process, as pygeoapi's API layer asks for it.

        Returns:
            Job id, media type, body, status and additional headers of the response. The
            status ``accepted`` means that the client finds everything at the job later.

        Raises:
            UnknownProcess: There is no such process.
            ExecutionError: The request does not fit the process (`InvalidRequest`), the job
                could not be made, or it ended without result while the client waited.
        """
        request = {
            "inputs": data_dict,
            "outputs": requested_outputs,
            "response": requested_response,
            "subscriber": subscriber
            and {
                "successUri": subscriber.success_uri,
                "inProgressUri": subscriber.in_progress_uri,
                "failedUri": subscriber.failed_uri,
            },
        }
        mode = RequestedProcessExecutionMode(execution_mode.value) if execution_mode else None
        job = self.execute(process_id, request, mode)
        if not job.has_ended:
            return _accepted(job)
        try:
            result = self.result(job)
        except ResultUnavailable as error:
            raise ExecutionError(error.detail) from error
        media_type, body = _media_type_and_body(result)
        headers = {PREFERENCE_APPLIED: "wait"} if mode else {}
        # pygeoapi sets the content type of raw results only
        headers["Content-Type"] = media_type
        if result.links:
            headers["Link"] = ", ".join(link.as_link_header() for link in result.links)
        return job.job_id, media_type, body, PygeoapiJobStatus.successful, headers

    def execute(
        self,
        process_id: str,
        request: Mapping[str, Any],
        requested_mode: RequestedProcessExecutionMode | None,
        wait_seconds: float | None = None,
    ) -> Job:
        """Make a job of an execute request, and wait for its end if it runs synchronously.

        Args:
            process_id: The process.
            request: The body of the request (``execute.yaml``).
            requested_mode: What the client prefers.
            wait_seconds: How long the client waits at most, if it says so. With this, one
                that prefers an asynchronous answer gets the result if it is there in time.

        Returns:
            The job as it is when the waiting is over: it need not have ended.

        Raises:
            UnknownProcess: There is no such process.
            ExecutionError: The request does not fit the process (`InvalidRequest`), or the
                job could not be made.
        """
        process = self.process(process_id)
        if wait_seconds == 0:  # who does not wait need not have the web process run the job
            requested_mode = RequestedProcessExecutionMode.respond_async
        plan = execution.plan(process_id, process.description, request, requested_mode)
        if process.flow is not None:
            policy = process.definition.references
            check_link_addresses(process.description, plan.request["inputs"], policy)
        self._files.check_references(plan, process)
        if subscriber := plan.request["subscriber"]:
            check_subscriber(subscriber, self.configuration.references)
        timeout_seconds = self.configuration.sync_job_execution_timeout_seconds
        if wait_seconds is not None:
            timeout_seconds = min(wait_seconds, timeout_seconds)
        if plan.mode is ProcessExecutionMode.sync_execute:
            return self._run(plan, process, timeout_seconds)
        job = self._submit(plan, process)
        if wait_seconds is None or not process.can_wait:
            return job
        return self.gateway.wait(job, timeout_seconds)

    def get_jobs(
        self,
        status: Any = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> dict[str, Any]:
        """Return a page of jobs, newest first, and under ``numberMatched`` how many there are.

        Args:
            status: One status, or several, to which the list is limited.
            limit: Length of the page; all jobs by default.
            offset: How many newer jobs to skip.
        """
        page = self.gateway.page(
            JobFilter(statuses=statuses_of(status)),
            limit=sys.maxsize if limit is None else limit,
            offset=offset or 0,
        )
        return {
            "jobs": [_job_dict(job) for job in page.jobs],
            "numberMatched": page.number_matched,
        }

    def get_job(self, job_id: str) -> dict[str, Any]:
        """Return one job. Raises `JobNotFound`."""
        job = self.gateway.look(job_id)
        return _job_dict(job) | {"parameters": _inputs_text(job)}

    def log(self, job_id: str, position: LogPosition, limit: int) -> LogPage:
        """Return a page of the log of a job, as far as clients may see it.

        Args:
            job_id: The job.
            position: Where the page starts.
            limit: How many lines of the log to look at; no more than `logs.PAGE_MAX_LINES`.

        Raises:
            LogNotPublished: Clients see no logs on this server.
            JobNotFound: There is no such job.
        """
        publication = self.configuration.publish_logs
        if publication is LogPublication.NONE:
            raise LogNotPublished("this server does not publish the logs of jobs")
        job = self.gateway.find(job_id)
        return page_of(
            job,
            self.gateway.log(job, position, limit),
            position,
            limit=limit,
            publication=publication,
            now=dt.datetime.now(dt.UTC),
        )

    def get_job_result(self, job_id: str) -> tuple[str, Any]:
        """Return media type and body of a job's result, in the form that was asked for.

        Raises:
            JobNotFound: There is no such job.
            ResultUnavailable: It has no result, not yet or not any more.
        """
        return _media_type_and_body(self.result(self.gateway.find(job_id)))

    def result(
        self,
        job: Job,
        preferred: ReturnPreference | None = None,
        several_as: ProcessResponseType | None = None,
    ) -> Response:
        """Return the result of a job, in the form that was asked for.

        Args:
            job: The job.
            preferred: Whether the client of this very request would rather have links than
                values.
            several_as: In which form it wants several outputs, if not in the one that was
                asked for.

        Raises:
            ResultNotReady: The job has not ended.
            JobFailed: It failed.
            JobRefused: It failed for what the client sent.
            JobWasDismissed: It was dismissed.
            ResultMissing: Its outputs are not in the result storage (any more).
            OutputsNotProduced: It has not made what was asked for.
            ResultUnreadable: Its flow is not one of ours, and stored them in a form that is
                not read.
        """
        if failure := failure_of(job):
            raise failure
        outputs = self._files.outputs(job)
        request = self._files.request(job)
        requested = Wishes.of_request(request).of(media_types(outputs))
        if preferred is ReturnPreference.minimal:
            requested = by_reference(requested)
        form = execution.response_type(request)
        if several_as is not None and len(requested) > 1:
            form = several_as
        return shape([*outputs.values()], requested, form)

    def output(self, job: Job, output_id: str) -> Output:
        """Return one output of a job, whether it was asked for or not. Raises as `result` does."""
        if failure := failure_of(job):
            raise failure
        outputs = self._files.outputs(job)
        if output_id not in outputs:
            raise ResultMissing(f"job {job.job_id} has no output {output_id!r}")
        return outputs[output_id]

    def outputs(self, job: Job) -> dict[str, Output]:
        """Return the outputs of a job, none of them read. Raises as `result` does."""
        if failure := failure_of(job):
            raise failure
        outputs = self._files.outputs(job)
        Wishes.of_request(self._files.request(job)).of(media_types(outputs))
        return outputs

    def inputs(self, job: Job, max_bytes: int) -> Mapping[str, Any] | None:
        """Return the inputs of a job; None if they are over a size, or kept no longer.

        Raises:
            StorageError: The result storage cannot be reached.
        """
        return self._files.inputs(job, max_bytes)

    def own_url(self, job_id: str, output_id: str) -> str | None:
        """Return where this service hands out an output, if it does."""
        return self.output_url(job_id, output_id) if self.output_url is not None else None

    def delete_job(self, job_id: str) -> bool:
        """Dismiss or remove a job, as pygeoapi's API layer asks for it; see `dismiss`."""
        self.dismiss(job_id)
        return True

    def dismiss(self, job_id: str) -> Dismissal:
        """Dismiss a job that has not ended; remove one that has, with its files.

        One that is dismissed already has ended when its work has stopped, or should have.

        Raises:
            JobNotFound: There is no such job.
        """
        job = self.gateway.find(job_id)
        if job.has_ended:
            self.remove(job)
            return Dismissal(job, is_removed=True)
        if not job.stopping:
            job = self.gateway.cancel(job)
            if job.status is JobStatus.dismissed:
                self._web_runs.stop(job)
            if job.subscriber is not None:
                self._deliveries.wake()
        elif dt.datetime.now(dt.UTC) - job.updated > STOP_TIME:
            logger.warning("job %s: nobody has said that its work has stopped", job_id)
            self.gateway.crash(job, "Nobody stopped the job")
            job = self.gateway.find(job_id)
        return Dismissal(job, is_removed=False)

    def remove(self, job: Job) -> None:
        """Remove a job that has ended: its files, then its run.

        Raises:
            JobNotFound: There is no such job any more.
            StorageError: A file cannot be removed; the job stays.
        """
        self._files.remove(job)
        self.gateway.delete(job)

    def expired_jobs(self, rule: RetentionRule) -> Iterator[Job]:
        """Find the jobs that `prune` would remove; see `retention.expired_jobs`."""
        return retention.expired_jobs(self.gateway, rule, dt.datetime.now(dt.UTC))

    def prune(self, rule: RetentionRule) -> Iterator[Removal]:
        """Remove the jobs that a rule does not keep; see `retention.prune`."""
        return retention.prune(self.gateway, rule, dt.datetime.now(dt.UTC), self.remove)

    def start_background_work(self) -> None:
        """Begin to do what a server does beside requests, if it is not done yet.

        Subscribers are told what an earlier process was kept from telling, jobs end whose web
        process is gone, and jobs are removed that are not kept any longer. Servers call it when
        they start; else it happens with the first request that concerns jobs.
        """
        self._deliveries.wake()
        self._orphan_looks.start()
        if not RetentionRule.of(self.configuration.retention).keeps_all:
            self._removals.start()

    def close(self) -> None:
        """End what goes on beside requests, and the connections; the next request begins anew."""
        loops = (self._deliveries, self._orphan_looks, self._removals)
        # a first call of the Prefect API that is under way in one of them starts them all again
        for loop in (*loops, *loops):
            loop.stop()
        self._web_runs.close()
        for gateway in (self.gateway, self._discovery_gateway):
            gateway.close()

    def _go_on(self) -> None:
        """Take up what earlier web processes have left behind."""
        self._orphan_watch.look(time.monotonic())
        self.start_background_work()

    def _clean_up(self) -> None:
        removals = [*self.prune(RetentionRule.of(self.configuration.retention))]
        removed = sum(removal.problem is None for removal in removals)
        if removals:
            logger.info("removed %s old jobs; %s could not be", removed, len(removals) - removed)

    def _results_document(self, job: Job) -> bytes:
        return results_document(self._files.outputs(job), self._files.request(job))

    def _disable_broken_processes(self) -> None:
        """Take out processes that cannot be loaded, and say so: the others go on."""
        for process_id in list(self._configured):
            try:
                self.process(process_id)
            except UnknownProcess:
                logger.error("process %s is disabled", process_id)
                del self._configured[process_id]

    def _submit(self, plan: Plan, process: Process) -> Job:
        with self._kept_request(plan, process) as parameters:
            job = self.gateway.submit(
                job_id=plan.job_id,
                process_id=plan.process_id,
                deployment=process.deployment,
                parameters=parameters,
                labels=self._labels(plan, process),
                work_queue=process.work_queue,
            )
        if job.subscriber is not None:
            self._deliveries.wake()
        return job

    def _run(self, plan: Plan, process: Process, timeout_seconds: float) -> Job:
        """Run a job while the client waits, and return it as it is when the time is up."""
        if process.flow is None or process.sync_is_deployed:
            return self.gateway.wait(self._submit(plan, process), timeout_seconds)
        try:
            return self._run_here(plan, process, process.flow, timeout_seconds)
        except ServerBusy as busy:
            if not process.can_respond_async:
                raise
            try:
                job = self._submit(plan, process)
            except DeploymentNotFound:
                raise busy from None  # nobody has promised that there is one
        return self.gateway.wait(job, timeout_seconds)

    def _run_here(
        self, plan: Plan, process: Process, flow: Flow[..., Any], timeout_seconds: float
    ) -> Job:
        """Run a job in this process. Raises `ServerBusy`."""

        def create() -> tuple[FlowRun, Mapping[str, Any]]:
            with self._kept_request(plan, process) as parameters:
                flow_run = self.gateway.create_run(
                    flow,
                    job_id=plan.job_id,
                    process_id=plan.process_id,
                    parameters=parameters,
                    labels=self._labels(plan, process, WebProcess.own().label),
                )
            if plan.request["subscriber"]:
                self._deliveries.wake()
            return flow_run, parameters

        try:
            return self._web_runs.run(flow, create, timeout_seconds)
        except BackendUnreachable:
            raise
        except BackendUnavailable:
            self._web_runs.disown(plan.job_id)  # it may have been made all the same
            raise

    @contextlib.contextmanager
    def _kept_request(self, plan: Plan, process: Process) -> Iterator[dict[str, Any]]:
        """Give the parameters for the run of a job; what they refer to stays if it is made."""
        if process.flow is None:
            yield execution.parameters_of_existing_deployment(plan, process.description)
            return
        text = plan.request_text
        if len(text.encode()) <= self.configuration.inline_request_max_bytes:
            yield {"job_id": plan.job_id, "execution_request": text}
            return
        storage = open_storage(process.definition.result_storage)
        key = f"{plan.job_id}/request.json"
        storage.write(key, text.encode())
        reference = f"{execution.STORED_REQUEST_PREFIX}{key}"
        try:
            yield {"job_id": plan.job_id, "execution_request": reference}
        except BaseException as error:
            # without an answer, nobody knows whether it was made
            is_unanswered = isinstance(error, BackendUnavailable)
            if not is_unanswered or isinstance(error, BackendUnreachable):
                _remove_unneeded(storage, plan.job_id)
            raise

    def _labels(
        self, plan: Plan, process: Process, web_process: str | None = None
    ) -> dict[str, str]:
        return run_labels(
            process_id=plan.process_id,
            result_media_type=plan.result_media_type,
            result_storage=process.definition.result_storage,
            web_process=web_process,
            execution_request=None if process.flow else plan.request_text_without_inputs,
            subscriber=plan.request["subscriber"],
            output_urls=self.output_url
            and {
                output_id: self.output_url(plan.job_id, output_id)
                for output_id in process.description["outputs"]
            },
        )


def manager_of_commands(configuration: Configuration) -> PrefectManager:
    """Return a manager for a command, which does nothing but what it is told to."""
    definition = configuration.content["server"]["manager"]
    processes = dict(configuration.process_resources)
    return PrefectManager({**definition, "processes": processes}, ApiGateway())


def _remove_unneeded(storage: ResultStorage, job_id: str) -> None:
    """Remove what was written for a job that was not made; that is what matters to its client."""
    try:
        storage.delete(job_id)
    except StorageError as error:
        logger.warning("files of %s, which is no job, are left: %s", job_id, error.detail)


def _accepted(job: Job) -> ExecutionAnswer:
    # pygeoapi sends a statusInfo only where this header says that it answers asynchronously
    headers = {PREFERENCE_APPLIED: "respond-async", "Content-Type": "application/json"}
    return job.job_id, "application/json", None, PygeoapiJobStatus.accepted, headers


def _media_type_and_body(result: Response) -> tuple[str, bytes]:
    """Return a result as pygeoapi sends it, which has no answer without a body: links are one."""
    if result.links:
        return VERBATIM_JSON_MEDIA_TYPE, links_document(result.links)
    return result.media_type, result.body


def failure_of(job: Job) -> ResultUnavailable | None:
    """Return why a job has no results, if it has none; see `PrefectManager.result`."""
    match job.status:
        case JobStatus.accepted | JobStatus.running:
            return ResultNotReady(f"job {job.job_id} is {job.status}; it has no results yet")
        case JobStatus.failed if job.error_name in CLIENTS_ERRORS:
            return JobRefused(f"job {job.job_id} failed: {job.message}")
        case JobStatus.failed:
            return JobFailed(f"job {job.job_id} failed: {job.message}")
        case JobStatus.dismissed:
            return JobWasDismissed(f"job {job.job_id} was dismissed")
        case _:
            return None


def _job_dict(job: Job) -> dict[str, Any]:
    """Return a job as pygeoapi's API layer reads it.

    pygeoapi sorts the page by ``started``, which therefore is never null: a job that waits
    has the time of its creation there.
    """
    return {
        "type": "process",
        "identifier": job.job_id,
        "process_id": job.process_id,
        "status": job.status.value,
        "message": job.message,
        "progress": job.progress,
        "created": rfc3339(job.created),
        "started": rfc3339(job.started or job.created),
        "finished": job.finished and rfc3339(job.finished),
        "updated": rfc3339(job.updated),
        "mimetype": job.result_media_type,
    }


def _inputs_text(job: Job) -> str | None:
    """Return the inputs for pygeoapi's job page, which parses JSON text, if the run has them."""
    if job.execution_request is None or job.execution_request.startswith(
        execution.STORED_REQUEST_PREFIX
    ):
        return None
    request = execution.parse_request(job.execution_request)
    inputs = request.get("inputs")
    if inputs is None:
        inputs = execution.inputs_in_parameters(request, job.parameters)
    return json.dumps(inputs)
